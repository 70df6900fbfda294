"""Descriptors assembled into a machine: a graph of devices, memories, switches, hosts, NICs and storage. No time."""
