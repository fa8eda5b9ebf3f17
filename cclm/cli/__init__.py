"""The `cclm` command. Each subcommand is a module."""
