"""Scores, p-values, metrics, densities and martingales."""
