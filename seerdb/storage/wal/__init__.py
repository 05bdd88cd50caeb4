"""The write-ahead log on the local disk."""
