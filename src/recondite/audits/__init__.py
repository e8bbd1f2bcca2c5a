"""Audits: what is wrong with a set of images, before anything is learnt from it."""
