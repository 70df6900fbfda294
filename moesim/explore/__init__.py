"""Many runs of one experiment: sweeps, searches, and the parallelism configurator."""
