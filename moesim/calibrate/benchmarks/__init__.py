"""PyTorch microbenchmarks of a machine: planned from models, timed, kept as tidy tables. PyTorch is imported inside
functions only, so that everything but the timing itself works without it."""
