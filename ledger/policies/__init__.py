"""Approval policies: whose signatures are enough, on what, until when; and why not."""
