"""moesim: a discrete-event simulator of Mixture-of-Experts models on heterogeneous hardware."""

__version__ = "0.1.0"
