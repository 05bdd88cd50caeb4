"""An open database: its parts put together, and its life."""
