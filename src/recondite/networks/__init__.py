"""Encoders, decoders, frozen backbones and their layers."""
