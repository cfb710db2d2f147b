"""Words of `JobStatus` that more than one package goes by."""

from .common_pb2 import Mode

NAME_OF_MODE = {Mode.MODE_SYNC: "sync", Mode.MODE_BOUNDED: "bounded", Mode.MODE_ASYNC: "async"}
"""As the setting `mode` is written, wherever people see it."""

LIVE_STATES = ("joined", "enrolled", "active", "paused")
"""Of `WorkerStatus.state`: those of a worker that still counts."""
STEP_PARTS = ("compute", "encode", "wait", "decode")
"""Into which a step's time is divided; `WorkerReport` has `<part>_seconds` of each."""
