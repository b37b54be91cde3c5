"""Adapters of attention libraries to the protocol of README.md."""
