"""This build against numbers of the published implementation: `cclm parity DIR`."""
