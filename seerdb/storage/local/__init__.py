"""The local disk: a port, and the real one."""
