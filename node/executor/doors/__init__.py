"""How workloads are reached and what they may reach."""
