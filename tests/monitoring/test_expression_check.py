"""The check of expressions notices what it is for, with a Prometheus that is made up."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
from expressions import Facts, check_expressions, reasons, shipped, substituted, without_comparison

ASYNC = Facts(mode="async")


@contextmanager
def prometheus_that_answers(value: Callable[[str], str | None]) -> Iterator[str]:
    """`value` gives the value of an expression, or None for no series."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (query,) = parse_qs(urlparse(self.path).query)["query"]
            found = value(query)
            result = [] if found is None else [{"metric": {}, "value": [0, found]}]
            self.send_response(400 if found == "error" else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"result": result}}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@cache
def _excused() -> frozenset[str]:
    holding = [reason for reason in reasons() if reason.holds(ASYNC)]
    return frozenset(substituted(each.promql) for each in shipped() if any(reason.covers(each) for reason in holding))


def excused(query: str) -> bool:
    return query in _excused()


def test_data_where_there_should_be_some_and_none_where_there_is_a_reason_is_right() -> None:
    with prometheus_that_answers(lambda query: None if excused(query) else "1") as address:
        report = check_expressions(address, ASYNC)
    assert report.ok, report
    assert report.num_checked > 100


@pytest.mark.parametrize("missing", [None, "NaN"])
def test_an_expression_without_data_is_reported(missing: str | None) -> None:
    def value(query: str) -> str | None:
        return None if excused(query) else missing if "pushpull_rpc_threads_busy" in query else "1"

    with prometheus_that_answers(value) as address:
        report = check_expressions(address, ASYNC, timeout_seconds=0.0)
    assert not report.ok
    assert len(report.silent) == 2, "the panel and the alert"
    assert all("pushpull_rpc_threads_busy" in each for each in report.silent)


def test_a_reason_that_is_not_needed_is_reported() -> None:
    with prometheus_that_answers(lambda query: "1") as address:
        report = check_expressions(address, ASYNC)
    assert not report.ok
    assert any("GPU" in each for each in report.needless)
    assert report.silent == []


def test_an_expression_that_is_refused_is_reported() -> None:
    with prometheus_that_answers(lambda query: "error" if "pushpull_rpc_threads" in query else "1") as address:
        report = check_expressions(address, ASYNC, timeout_seconds=0.0)
    assert not report.ok
    assert report.failed


def test_a_reason_holds_for_its_facts_only() -> None:
    bounds = [reason for reason in reasons() if "bound" in reason.expressions]
    assert bounds
    assert not any(reason.holds(Facts(mode="bounded")) for reason in bounds)
    assert all(reason.holds(Facts(mode="sync")) for reason in bounds)


def test_the_comparison_is_the_last_one() -> None:
    assert without_comparison("(a > 1) / b >= 0.5") == "(a > 1) / b"
    with pytest.raises(ValueError, match="must end"):
        without_comparison("a > b")


def test_variables_of_dashboards_are_filled_in_and_others_are_refused() -> None:
    assert substituted('rate(a{job_id=~"$job_id"}[$__rate_interval])', "20s") == 'rate(a{job_id=~".+"}[20s])'
    with pytest.raises(ValueError, match="unknown variable"):
        substituted("a{b='$other'}")
