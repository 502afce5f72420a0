"""Adapters: the command line, the servers, and the one place for each third-party client."""
