"""The systems that are measured: ours, etcd, CometBFT. Each is set up, started, and stopped the same way."""
