"""`cclm launch`: it starts the training processes, judges how they end, and says so to schedulers by its exit code."""
