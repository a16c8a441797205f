"""The gRPC surface: what callers send and get, and nothing of how it is done."""
