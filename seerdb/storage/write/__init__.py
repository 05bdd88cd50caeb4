"""The write path, and what presses on it."""
