"""What every Tidegate service shares: bus, settings, errors, telemetry, object store, gRPC server."""
