"""Subcommands of tally, one module each, imported only when chosen."""
