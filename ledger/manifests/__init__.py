"""Expansion: what stakeholders approve and nodes execute, and the rules that it is held to."""
