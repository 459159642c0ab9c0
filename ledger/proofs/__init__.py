"""Proofs: that a block is final, that a record is so; what an auditor needs and nothing else."""
