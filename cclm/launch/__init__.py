"""Processes around training: `cclm launch` starts them, judges how they end, and tells the scheduler by its exit code."""
