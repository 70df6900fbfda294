"""Routes, link loads and collectives: bytes over ports -> picoseconds."""
