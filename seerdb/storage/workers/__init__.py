"""Threads and processes, what they share a machine with, and how background work is woken."""
