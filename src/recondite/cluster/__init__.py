"""Fits and sweeps on a Ray cluster."""
