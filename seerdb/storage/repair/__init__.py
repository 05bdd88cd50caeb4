"""Rebuilding a database whose manifest is lost or damaged, into another bucket or prefix."""
