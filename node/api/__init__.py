"""HTTP on top of a peer: API, events, explorer, metrics."""
