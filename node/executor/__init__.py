"""Runs verified bytes, isolated: sealing, limits, drivers, leases and receipts."""
