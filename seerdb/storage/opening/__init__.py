"""Opening a database for writing: what its log says, and what of that counts."""
