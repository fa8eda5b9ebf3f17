"""Processes around training: `cclm launch` starts them, judges how they end, and tells schedulers by its exit code."""
