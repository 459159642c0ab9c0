"""What Linux offers for isolation, each part by itself."""
