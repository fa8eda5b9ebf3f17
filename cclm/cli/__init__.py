"""The `cclm` command: one module a subcommand."""
