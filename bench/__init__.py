"""Measurements of a running network; `make bench` repeats them all."""
