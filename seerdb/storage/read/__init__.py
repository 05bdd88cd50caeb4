"""The current state: what reads look at, and reading it."""
