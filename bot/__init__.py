"""The 3bot: plans, buys, orchestrates. A peer with a policy."""
