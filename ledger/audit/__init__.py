"""A deployment's whole life in one file, checked with nothing but the genesis."""
