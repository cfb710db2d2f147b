"""One live worker is always the first: it saves and prints for all."""

import pytest
from registrar_script import Key, Script

from pushpull.protos.registrar_pb2 import Role, WorkerReport


def first_of(script: Script, *keys: Key) -> list[int]:
    """Ids of those that are told that they are."""
    return [
        key[0]
        for key in keys
        if script.registrar.is_first(script.registrar.heartbeat(script.now, *key, WorkerReport()))
    ]


def test_nobody_is_before_the_servers_hold_values() -> None:
    script = Script()
    worker = script.join()
    assert first_of(script, worker) == []
    script.enrol(worker)
    assert first_of(script, worker) == []


def test_whoever_initialised_is_and_stays_it_when_smaller_ids_come() -> None:
    script = Script()
    initialiser = script.ready(5)
    smaller = script.ready(2)
    assert first_of(script, smaller, initialiser) == [5]


@pytest.mark.parametrize("end", ["leaves", "fails", "expires", "is replaced"])
def test_the_part_moves_on_to_the_smallest_that_has_enrolled(end: str) -> None:
    script = Script(lease_seconds=3)
    first = script.ready(0)
    second, third, joined_only = script.ready(4), script.ready(7), script.join(1)
    assert first_of(script, first, second, third, joined_only) == [0]
    match end:
        case "leaves":
            script.registrar.leave(script.now, *first, WorkerReport(), "")
        case "fails":
            script.registrar.leave(script.now, *first, WorkerReport(), "ValueError: no")
        case "expires":
            script.at(3.5, second, third, joined_only)
        case "is replaced":
            script.join(0)
    assert first_of(script, third, second, joined_only) == [4]
    script.ready(0)
    assert first_of(script, third, second) == [4]


def test_after_all_have_gone_the_next_that_comes_is_it() -> None:
    script = Script()
    first = script.ready(0)
    assert first_of(script, first) == [0]
    script.registrar.leave(script.now, *first, WorkerReport(), "")
    assert first_of(script, script.ready(3)) == [3]


def test_an_observer_never_is() -> None:
    script = Script()
    worker = script.ready(3)
    observer = script.join(role=Role.ROLE_OBSERVER)
    script.enrol(observer)
    assert first_of(script, observer, worker) == [3]
