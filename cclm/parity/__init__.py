"""Comparison of this build with numbers of the published implementation: `cclm parity DIR`."""
