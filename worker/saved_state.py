"""What a worker saves of itself: what its encoders remember."""

import logging
from collections.abc import Mapping
from typing import Any

from .replica import Replica

logger = logging.getLogger(__name__)

STATE_KEY = "pushpull"


def saved_state(replica: Replica) -> dict[str, Any]:
    """Residuals and velocities (FP32, by block), and what they belong to."""
    return {
        "memory": replica.encoder.state_dict(),
        "plan": replica.plan.fingerprint,
        "clock": replica.position.own_clock,
        "job": replica.job_settings(),
    }


def load_memory(replica: Replica, state: Mapping[str, Any]) -> None:
    """Takes back what `saved_state` gave, if it belongs to the same plan."""
    saved = state.get(STATE_KEY)
    if saved is None:
        if state.get("state"):
            logger.warning(
                "this state comes from a local optimizer: group values are taken over, momenta are not (the servers have "
                "theirs)"
            )
        return
    if saved["plan"] != replica.plan.fingerprint:
        if saved["memory"]:
            logger.warning(
                "the saved residuals and velocities belong to another model or number of shards; they are dropped"
            )
        return
    replica.encoder.load_state_dict(saved["memory"])
