"""The log on its way into the bucket, and in it."""
