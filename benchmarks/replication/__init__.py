"""Followers, shipping and failover, measured on real processes."""
