"""Immutable sorted tables as bytes; no I/O of their own."""
