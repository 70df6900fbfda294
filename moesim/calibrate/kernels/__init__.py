"""Measured kernel tables -> groups of rows -> fitted terms of the forms in moesim.kernels.forms."""
