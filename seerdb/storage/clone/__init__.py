"""Writable branches of a database that borrow its tables."""
