"""Organisations: members, roles, and the deeds by which they change."""
