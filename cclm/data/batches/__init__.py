"""Examples become typed batches ahead of their use: collation, loader processes, shared memory."""
