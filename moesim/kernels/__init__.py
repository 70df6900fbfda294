"""Operators -> FLOPs and bytes -> seconds and joules on a device."""
