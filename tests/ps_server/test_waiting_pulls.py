"""Which pulls are sent values while these are made."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pushpull.protos.registrar_pb2 import Member, View
from pushpull.ps_server.consistency import Asynchronous, BoundedStaleness, Policy, Synchronous
from pushpull.ps_server.effects import Counters, Job, PullTicket
from pushpull.ps_server.keys import StreamKey
from pushpull.ps_server.membership import Membership
from pushpull.ps_server.pulls import WaitingPulls

BOUND = 2


def streamed_steps(policy: Policy, num_steps: int) -> list[bool]:
    """Whether worker 0 is sent values while its step is applied, step after step, beside a worker that takes none."""
    membership = Membership()
    members = [Member(worker_id=worker, incarnation=worker + 1, active=True) for worker in (0, 1)]
    membership.install(View(number=1, members=members))
    pulls = WaitingPulls(policy, membership, Counters())
    streamed = []
    for step in range(1, num_steps + 1):
        ticket = PullTicket(StreamKey(0, 1, 0), request=0, step=step, held=np.zeros(1, np.int64), after_job=step)
        pulls.add(ticket)
        job = cast(Job, SimpleNamespace(settles={(0, 1): step}))
        streamed.append(pulls.streaming(job) == [ticket])
        membership.advance(0)
    return streamed


def test_a_pull_that_the_bound_will_hold_back_is_not_sent_values_that_will_be_old() -> None:
    assert streamed_steps(BoundedStaleness(BOUND), 4) == [True, True, False, False]


@pytest.mark.parametrize("policy", [Asynchronous(), Synchronous()])
def test_without_a_bound_every_pull_behind_a_step_is_sent_values_as_they_are_made(policy: Policy) -> None:
    assert streamed_steps(policy, 4) == [True] * 4
