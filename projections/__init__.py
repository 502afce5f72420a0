"""Projections: pure functions from events to writes."""
