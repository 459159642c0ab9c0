"""What peers say to each other that one reader alone may open."""
