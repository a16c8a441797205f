"""Find images by describing them: the gRPC server."""
