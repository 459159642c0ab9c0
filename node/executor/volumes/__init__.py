"""Volumes: made, mounted, copied to other nodes, restored."""
