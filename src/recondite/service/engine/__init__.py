"""Batching, judging, storage and limits behind the routes."""
