"""Implementations of the port `ImageIndex`."""
