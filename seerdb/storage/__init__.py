"""The log-structured engine: bytes, files and objects; knows nothing of HTTP."""
