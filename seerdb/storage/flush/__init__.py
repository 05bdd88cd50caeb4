"""From memtables and the log to tables, and to the version that names them."""
