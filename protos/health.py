"""Services of the standard gRPC health protocol on a server's port; the one without a name is the process itself."""

PROCESS = ""
"""SERVING as long as the process works, also while it drains: for liveness probes."""
READY = "pushpull.v1/ready"
"""SERVING while the server takes part and admits workers: for readiness probes."""
TRAINED = "pushpull.v1/trained"
"""SERVING while the shard holds initialised parameters."""

REASON_METADATA_KEY = "pushpull-reason-bin"
"""Trailing metadata of the answer to a Check: why the service is not serving, for people, as UTF-8."""
