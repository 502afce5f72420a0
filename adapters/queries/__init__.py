"""Queries over NATS: one file for each subject matter, a line for it in catalogue.py (docs/queries.md)."""
