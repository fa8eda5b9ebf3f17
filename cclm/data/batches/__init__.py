"""Examples become typed batches, in time for training: collation, loader processes, shared memory."""
