"""What is true: documents, transactions, the state machine, the store."""
