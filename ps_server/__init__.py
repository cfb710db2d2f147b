"""Parameter servers: shards, the registrar, and the gRPC server around them."""
