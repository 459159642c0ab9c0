"""A load generator: client processes for three protocols; latency counts from when a request was due."""
