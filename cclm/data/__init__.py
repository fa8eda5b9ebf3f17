"""From stored bytes to typed batches. Rooms, lowest first: stored, annotations, examples, batches, commands."""
