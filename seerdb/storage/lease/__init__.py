"""Who may acknowledge writes: a lease in the bucket; see ``docs/adr/0024-lease.md``."""
