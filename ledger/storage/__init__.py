"""The chain and its state on disk: layout, commits, copies, what is kept and what goes."""
