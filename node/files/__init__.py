"""Artifacts: held, served, and fetched from many peers at once, each chunk checked."""
