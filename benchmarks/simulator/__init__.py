"""The compaction policies on simulated trees, held against what the textbook says of them."""
