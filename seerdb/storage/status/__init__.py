"""Numbers, status and health of an open database, gathered on request from its parts."""
