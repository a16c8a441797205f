"""Protobuf messages <-> the public dataclasses: pure, and shared by both clients."""
