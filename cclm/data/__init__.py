"""From stored bytes to typed batches. The packages, lowest first: stored, annotations, examples, batches, commands."""
