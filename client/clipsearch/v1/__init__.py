"""The generated protobuf and gRPC stubs of the package ``clipsearch.v1``; `make proto` writes them."""
