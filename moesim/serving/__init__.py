"""Requests to iterations to tokens: load, batching, scheduling, routing between replicas."""
