"""Large values: the objects they lie in, who writes and reads those, and when they move."""
