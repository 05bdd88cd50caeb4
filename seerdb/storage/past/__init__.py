"""Earlier states of a database: to be read, or to go back to."""
