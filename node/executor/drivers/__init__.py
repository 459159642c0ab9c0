"""Drivers: ways to run one task isolated, all behind the seam in `base`."""
