"""Figures and pages; evaluation, explanation, drift and recalibration."""
