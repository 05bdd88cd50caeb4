"""Restore drills: proving that the newest backup can be restored, by doing it."""
