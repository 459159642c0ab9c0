"""How peers agree on the next block: Simplex, as a pure core."""
