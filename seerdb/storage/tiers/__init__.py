"""Where the bytes of tables are found: in memory, on the local disk, in the bucket."""
