"""Many pairs into tables at once."""
