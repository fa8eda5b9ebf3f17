"""Curves of runs: what `cclm report` reads, and how it is drawn."""
