"""Figures that are read at a scrape, whose they are, and an endpoint that hostile scrapers cannot take away."""

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from pushpull.protos import metrics_endpoint
from pushpull.protos.errors import PortInUseError
from pushpull.protos.exposition import Family, Identified, Reading, Readings, label_text, memory_limit_bytes
from pushpull.protos.metrics_endpoint import MOST_CONNECTIONS, MetricsEndpoint

HEIGHT = Family("gauge", "test_height_metres", "How high.", ("who",))
FALLS = Family("counter", "test_falls", "How often.")


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("test_steps", "Steps.", registry=registry).inc()
    return registry


@pytest.fixture
def endpoint(registry: CollectorRegistry) -> Iterator[MetricsEndpoint]:
    endpoint = MetricsEndpoint("127.0.0.1:0", registry, "--metrics-listen")
    yield endpoint
    endpoint.close()


def scrape(address: str) -> str:
    return urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()


def connection(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def num_handlers() -> int:
    return sum("process_request" in thread.name for thread in threading.enumerate())


def wait_until_none_is_left() -> None:
    until = time.monotonic() + 10.0
    while num_handlers():
        assert time.monotonic() < until
        time.sleep(0.01)


def goes_on(connection: socket.socket) -> bool:
    """Says one byte more; whether the other side still listens."""
    try:
        connection.sendall(b"G")
        return bool(connection.recv(1))
    except TimeoutError:
        return True
    except OSError:
        return False


class TestReadings:
    def test_are_taken_at_each_scrape_and_absent_without_a_sample(self) -> None:
        heights = {"ada": 1.0}
        registry = CollectorRegistry()
        registry.register(
            Readings([HEIGHT, FALLS], lambda: [(HEIGHT, (who,), metres) for who, metres in heights.items()])
        )
        assert 'test_height_metres{who="ada"} 1.0' in generate_latest(registry).decode()
        heights["ada"] = 2.0
        text = generate_latest(registry).decode()
        assert 'test_height_metres{who="ada"} 2.0' in text
        assert "test_falls" not in text

    def test_a_counter_is_named_as_one(self) -> None:
        registry = CollectorRegistry()
        registry.register(Readings([FALLS], lambda: [(FALLS, (), 3)]))
        assert "test_falls_total 3.0" in generate_latest(registry).decode()

    def test_say_beforehand_what_there_may_be(self) -> None:
        families = Readings([HEIGHT, FALLS], lambda: []).describe()
        assert [family.name for family in families] == ["test_height_metres", "test_falls"]

    def test_what_others_call_themselves_is_cut(self) -> None:
        assert len(label_text("x" * 10_000)) == 64


class TestIdentity:
    def test_is_on_every_sample_and_may_become_known_later(self, registry: CollectorRegistry) -> None:
        identity = {"shard": ""}
        shown = Identified(registry, lambda: identity).as_registry()
        assert 'test_steps_total{shard=""} 1.0' in generate_latest(shown).decode()
        identity["shard"] = "1"
        assert 'test_steps_total{shard="1"} 1.0' in generate_latest(shown).decode()

    def test_does_not_replace_a_metrics_own_label(self) -> None:
        registry = CollectorRegistry()
        registry.register(Readings([HEIGHT], lambda: [(HEIGHT, ("ada",), 1)]))
        shown = Identified(registry, lambda: {"who": "bob"}).as_registry()
        assert 'test_height_metres{who="ada"} 1.0' in generate_latest(shown).decode()


class TestMemoryLimit:
    def limit(self, folder: Path, own: str, limits: dict[str, str]) -> int:
        (folder / "own").write_text(own)
        for name, text in limits.items():
            path = folder / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return memory_limit_bytes(folder / "own", folder / "groups")

    def test_is_the_smallest_of_all_groups_around_a_process(self, tmp_path: Path) -> None:
        limits = {"a/b/memory.max": "2000\n", "a/memory.max": "1000\n", "memory.max": "max\n"}
        assert self.limit(tmp_path, "0::/a/b\n", limits) == 1000

    def test_is_found_in_the_older_layout_of_groups(self, tmp_path: Path) -> None:
        own = "5:cpu:/x\n4:memory:/x\n"
        assert self.limit(tmp_path, own, {"memory/memory.limit_in_bytes": "3000\n"}) == 3000

    def test_is_the_machines_without_groups(self, tmp_path: Path) -> None:
        assert self.limit(tmp_path, "0::/\n", {}) == memory_limit_bytes(tmp_path / "missing") > 1 << 20


class TestEndpoint:
    def test_serves_what_is_in_the_registry(self, endpoint: MetricsEndpoint) -> None:
        assert "test_steps_total 1.0" in scrape(endpoint.address)

    def test_is_not_taken_away_by_connections_that_say_nothing(self, endpoint: MetricsEndpoint) -> None:
        idle = [connection(endpoint.address) for _ in range(5 * MOST_CONNECTIONS)]
        try:
            assert "test_steps_total 1.0" in scrape(endpoint.address)
            assert num_handlers() <= MOST_CONNECTIONS
            idle[0].settimeout(10)
            assert idle[0].recv(1) == b"", "the oldest was not hung up on"
        finally:
            for each in idle:
                each.close()

    def test_is_not_taken_away_by_requests_that_never_end(self, endpoint: MetricsEndpoint) -> None:
        slow = [connection(endpoint.address) for _ in range(2 * MOST_CONNECTIONS)]
        try:
            for each in slow:
                each.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
            assert "test_steps_total 1.0" in scrape(endpoint.address)
        finally:
            for each in slow:
                each.close()

    def test_has_so_many_threads_however_many_ask_and_read_nothing(
        self, registry: CollectorRegistry, endpoint: MetricsEndpoint
    ) -> None:
        registry.register(Readings([HEIGHT], lambda: [(HEIGHT, ("x" * 1000,), 1.0)] * 8000))  # more than sockets hold
        deaf, most = [], 0
        try:
            for _ in range(2 * MOST_CONNECTIONS):
                deaf.append(connection(endpoint.address))
                deaf[-1].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                most = max(most, num_handlers())
            assert "test_steps_total 1.0" in scrape(endpoint.address)
            assert max(most, num_handlers()) <= MOST_CONNECTIONS
        finally:
            for each in deaf:
                each.close()

    def test_ends_who_says_a_little_now_and_then(
        self, endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(metrics_endpoint, "DEADLINE_SECONDS", 0.3)
        until = time.monotonic() + 20.0
        with connection(endpoint.address) as slow:
            slow.settimeout(0.05)
            while goes_on(slow) and time.monotonic() < until:
                pass
        assert time.monotonic() < until
        wait_until_none_is_left()

    def test_many_who_scrape_are_answered_one_after_the_other(self) -> None:
        registry, now, most = CollectorRegistry(), [0], [0]

        def read() -> list[Reading]:
            now[0] += 1
            most[0] = max(most[0], now[0])
            time.sleep(0.01)  # room for another one, if it were let in
            now[0] -= 1
            return [(FALLS, (), 1)]

        registry.register(Readings([FALLS], read))
        endpoint = MetricsEndpoint("127.0.0.1:0", registry, "--metrics-listen")
        try:
            with ThreadPoolExecutor(MOST_CONNECTIONS) as scrapers:
                for text in scrapers.map(scrape, [endpoint.address] * MOST_CONNECTIONS):
                    assert "test_falls_total 1.0" in text
        finally:
            endpoint.close()
        assert most[0] == 1

    def test_ends_at_once_although_others_hold_all_its_threads(self, endpoint: MetricsEndpoint) -> None:
        idle = [connection(endpoint.address) for _ in range(3 * MOST_CONNECTIONS)]
        began = time.monotonic()
        endpoint.close()
        for each in idle:
            each.close()
        assert time.monotonic() - began < metrics_endpoint.SILENCE_SECONDS

    def test_says_nothing_about_nonsense_and_broken_connections(
        self, endpoint: MetricsEndpoint, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for nonsense in (b"\x16\x03\x01\x02\x00", b"GET " + b"x" * 70_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200):
            with connection(endpoint.address) as each:
                each.sendall(nonsense)
        assert "test_steps_total" in scrape(endpoint.address)
        assert capfd.readouterr().err == ""

    def test_does_not_answer_other_methods_with_figures(self, endpoint: MetricsEndpoint) -> None:
        request = urllib.request.Request(f"http://{endpoint.address}/metrics", data=b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request, timeout=10)

    def test_a_port_that_is_taken_is_named_with_the_setting(self, endpoint: MetricsEndpoint) -> None:
        with pytest.raises(PortInUseError, match=f"{endpoint.address}.*--metrics-listen"):
            MetricsEndpoint(endpoint.address, CollectorRegistry(), "--metrics-listen")
