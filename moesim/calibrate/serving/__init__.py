"""Measured serving runs: read, simulated as they were sent, scored, and the few engine parameters fitted to them."""
