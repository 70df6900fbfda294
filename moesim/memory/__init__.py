"""What fits: footprints and capacity, and the paged KV cache."""
