"""The command line: `gridpact`."""
