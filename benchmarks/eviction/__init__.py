"""Which blocks to evict: policies replayed on traces of reads, by hit ratio and by time."""
