"""Measurements: `make bench` prints a table and writes benchmarks/results.json (DESIGN.md 13)."""
