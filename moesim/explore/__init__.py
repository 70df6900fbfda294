"""What if: one change, what each number is worth; and many runs of one experiment: sweeps, searches, parallelism."""
