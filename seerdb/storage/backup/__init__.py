"""Copies of a database in a repository, and databases made of them."""
