"""What a worker saves of itself: what its encoders remember."""

import logging
from collections.abc import Mapping
from typing import Any

from ..protos.errors import PushpullError, SettingError
from .replica import Replica

logger = logging.getLogger(__name__)

STATE_KEY = "pushpull"


class NeverCopied:
    """Of an optimizer whose other half is on the servers: torch would copy, or pickle, what is here, and nothing works then."""

    def __getstate__(self) -> dict[str, Any]:
        raise SettingError(
            "an optimizer of worker.optimizer() cannot be copied or pickled: it is this process's connection to the servers, "
            "which hold its state. Save optimizer.state_dict(); in another process make one of its own by connect()"
        )


def saved_state(replica: Replica) -> dict[str, Any]:
    """Residuals and velocities (FP32, by block), and what they belong to."""
    try:
        replica.settle_interrupted()
    except PushpullError as error:
        logger.warning("what is saved is as before the step that was interrupted: %s", error)
    return {
        "memory": replica.encoder.state_dict(),
        "plan": replica.plan.fingerprint,
        "clock": replica.position.own_clock,
        "job": {
            "job_id": replica.job.job_id,
            "push_codec": replica.job.push_codec,
            "pull_codec": replica.job.pull_codec,
        },
    }


def load_memory(replica: Replica, state: Mapping[str, Any]) -> bool:
    """Takes back what `saved_state` gave; False, and nothing done, unless it belongs to the same plan."""
    saved = state.get(STATE_KEY)
    if saved is None:
        return False
    if saved["plan"] != replica.plan.fingerprint:
        if saved["memory"]:
            logger.warning(
                "the saved residuals and velocities belong to another model or number of shards; they are dropped"
            )
        return False
    own = {block: memory for block, memory in saved["memory"].items() if block in replica.own_blocks}
    if len(own) < len(saved["memory"]):
        logger.warning(
            "%d of %d saved residuals or velocities are of blocks that another rank owns now; they are dropped. Every rank "
            "loads what it has saved itself, with the same layout",
            len(saved["memory"]) - len(own),
            len(saved["memory"]),
        )
    replica.encoder.load_state_dict(own)
    return True


def warn_of_local_state(state: Mapping[str, Any]) -> None:
    """For an optimizer whose state is on the servers."""
    if state.get("state") and STATE_KEY not in state:
        logger.warning(
            "this state comes from a local optimizer: group values are taken over, momenta are not (the servers have theirs)"
        )
