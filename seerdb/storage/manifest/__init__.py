"""What the database consists of: versions, edits and their numbered objects."""
