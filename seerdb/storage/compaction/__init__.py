"""Choosing what to merge, and merging it."""
