"""Architecture to operators: what one layer computes, reads and holds, before any device or parallelism."""
