"""Implementations of the port `Encoder`."""
