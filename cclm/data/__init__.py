"""From stored bytes to typed batches."""
