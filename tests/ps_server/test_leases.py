"""Leases, with time as a number."""

import pytest

from pushpull.ps_server.leases import Leases


def test_a_silent_incarnation_expires_after_its_lease() -> None:
    leases = Leases(lease_seconds=3, tick_seconds=0.25)
    leases.grant(1, 1, now=0.0)
    leases.grant(2, 1, now=0.0)
    leases.renew(2, rank=0, now=2.0)
    expired_at = {}
    for tick in range(30):
        for incarnation, _ in leases.expired(now := tick * 0.25):
            expired_at.setdefault(incarnation, now)
            leases.end(incarnation)
    assert expired_at == {1: 3.25, 2: 5.25}


def test_a_registrar_that_was_paused_blames_nobody() -> None:
    leases = Leases(lease_seconds=3, tick_seconds=0.25)
    leases.expired(now=0.0)
    leases.grant(1, 2, now=0.0)
    assert leases.expired(now=60.0) == []
    expired = [now for tick in range(1, 20) if leases.expired(now := 60.0 + 0.25 * tick)]
    assert expired[0] == pytest.approx(62.75)


def test_each_rank_has_a_lease_of_its_own() -> None:
    leases = Leases(lease_seconds=3, tick_seconds=0.25)
    leases.grant(1, 3, now=0.0)
    for tick in range(1, 14):
        leases.renew(1, rank=0, now=tick * 0.25)
        leases.renew(1, rank=2, now=tick * 0.25)
        silent = leases.expired(tick * 0.25)
    assert silent == [(1, 1)]


def test_a_rank_that_has_ended_is_not_waited_for_and_cannot_come_back() -> None:
    leases = Leases(lease_seconds=3, tick_seconds=60)
    leases.grant(1, 2, now=0.0)
    leases.end_rank(1, 1)
    leases.renew(1, rank=1, now=1.0)
    leases.renew(1, rank=0, now=5.0)
    assert leases.expired(now=6.0) == []
