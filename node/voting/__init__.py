"""A validator at work: from transactions to batches, votes and final blocks."""
