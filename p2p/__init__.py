"""How bytes travel between peers: identities, streams, gossip and discovery. Knows no ledger."""
