"""Words of `JobStatus` that more than one package goes by."""

LIVE_STATES = ("joined", "enrolled", "active", "paused")
"""Of `WorkerStatus.state`: those of a worker that still counts."""
STEP_PARTS = ("compute", "encode", "wait", "decode")
"""Into which a step's time is divided; `WorkerReport` has `<part>_seconds` of each."""
