"""Screens over HTTP: verdicts, events, metrics and a page."""
