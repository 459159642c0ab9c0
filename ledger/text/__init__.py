"""The small languages inside a contract, each a bounded part of a known one: YAML, CEL, patterns,
quantities."""
