"""Simulations: the demo, load and chaos, over real input."""
