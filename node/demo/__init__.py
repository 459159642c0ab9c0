"""`make demo`: the whole story on one machine, told through the commands that a user would type."""
