"""Following a database: what a follower reads, what it keeps, and what the writer streams to it."""
