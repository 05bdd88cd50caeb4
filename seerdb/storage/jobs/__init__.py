"""Flushes and compactions as jobs: where they run, and how they are watched and stopped."""
