"""The seerdb command."""
