"""Published systems, built from YAML: what their papers claim beside what we simulate, and their main figures."""

from moesim.reproduce.systems import Claims, load_claims, system_names

__all__ = ["Claims", "load_claims", "system_names"]
