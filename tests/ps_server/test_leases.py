"""Leases, with time as a number."""

import pytest

from pushpull.ps_server.leases import Leases


def test_a_silent_incarnation_expires_after_its_lease() -> None:
    leases = Leases(lease_seconds=3, tick_seconds=0.25)
    leases.renew(1, now=0.0)
    leases.renew(2, now=0.0)
    leases.renew(2, now=2.0)
    expired_at = {}
    for tick in range(30):
        for incarnation in leases.expired(now := tick * 0.25):
            expired_at.setdefault(incarnation, now)
            leases.end(incarnation)
    assert expired_at == {1: 3.25, 2: 5.25}


def test_a_registrar_that_was_paused_blames_nobody() -> None:
    leases = Leases(lease_seconds=3, tick_seconds=0.25)
    leases.expired(now=0.0)
    leases.renew(1, now=0.0)
    assert leases.expired(now=60.0) == []
    expired = [now for tick in range(1, 20) if leases.expired(now := 60.0 + 0.25 * tick)]
    assert expired[0] == pytest.approx(62.75)
