"""Subcommands that simulations add to tally."""
