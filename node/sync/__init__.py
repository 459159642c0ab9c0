"""Following the chain: block by block, or a whole state at once; and mending a wrong one."""
