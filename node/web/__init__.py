"""The explorer: plain pages, rendered here, kept live by server-sent events."""
