"""The bucket: one protocol, one fsspec implementation, and wrappers around it."""
