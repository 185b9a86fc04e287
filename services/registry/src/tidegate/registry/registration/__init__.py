"""One registration from end to end, for the training topic and for gRPC alike."""
