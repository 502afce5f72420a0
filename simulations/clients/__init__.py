"""Clients that stand for outside services: plain nats-py and JSON, nothing of ours."""
