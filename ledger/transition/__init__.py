"""One file a noun: how each kind of transaction changes the state."""
