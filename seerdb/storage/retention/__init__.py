"""What is kept, what for and how long, and the only place that deletes."""
