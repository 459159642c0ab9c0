"""What people and programs do without a peer of their own process: building, reading, signing, asking."""
