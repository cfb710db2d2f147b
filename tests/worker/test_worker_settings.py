"""What connect() is told, by arguments and environment, and what it expects of the job."""

import pytest

from pushpull.protos.common_pb2 import JobSpecification, Mode
from pushpull.protos.errors import SettingError, UnknownKeyError
from pushpull.worker.config import ANY_WORKER_ID, worker_config
from pushpull.worker.expectations import check_expectations
from pushpull.worker.retry import Patience

ENVIRONMENT = {
    "PUSHPULL_SERVERS": "a:1, b:2",
    "PUSHPULL_WORKER_ID": "3",
    "PUSHPULL_METRICS_LISTEN": "127.0.0.1:0",
}


class TestConfig:
    def test_comes_from_the_environment(self) -> None:
        config = worker_config(environment=ENVIRONMENT)
        assert (config.servers, config.worker_id, config.metrics_listen) == (("a:1", "b:2"), 3, "127.0.0.1:0")

    def test_prefers_arguments(self) -> None:
        config = worker_config(["c:3"], 0, environment=ENVIRONMENT)
        assert (config.servers, config.worker_id) == (("c:3",), 0)

    def test_is_as_patient_as_the_environment_says_unless_an_argument_does(self) -> None:
        environment = {"PUSHPULL_SERVERS": "a:1", "PUSHPULL_PATIENCE_SECONDS": "600"}
        assert worker_config(environment=environment).patience_seconds == 600
        assert worker_config(patience_seconds=5, environment=environment).patience_seconds == 5
        assert worker_config("a:1", environment={}).patience_seconds == 60

    def test_leaves_the_number_to_the_registrar(self) -> None:
        assert worker_config("a:1", environment={}).worker_id == ANY_WORKER_ID

    @pytest.mark.parametrize(
        ("environment", "names"),
        [
            ({}, "pushpull launch"),
            ({"PUSHPULL_SERVERS": "nowhere"}, "PUSHPULL_SERVERS: 'nowhere' is not host:port"),
            ({"PUSHPULL_SERVERS": "a:99999"}, "host:port"),
            ({"PUSHPULL_SERVERS": "a:1", "PUSHPULL_WORKER_ID": "one"}, "PUSHPULL_WORKER_ID"),
            ({"PUSHPULL_SERVERS": "a:1", "PUSHPULL_WORKER_ID": "\u0661"}, "PUSHPULL_WORKER_ID"),
            ({"PUSHPULL_SERVERS": "a:1", "PUSHPULL_WORKER_ID": str(2**31)}, "PUSHPULL_WORKER_ID"),
            ({"PUSHPULL_SERVERS": "a:1", "WORLD_SIZE": "9" * 5000}, "WORLD_SIZE"),
            ({"PUSHPULL_SERVERS": "a:1,a:1"}, "PUSHPULL_SERVERS: a:1 is named twice"),
            ({"PUSHPULL_SERVERS": "a:1", "PUSHPULL_PATIENCE_SECONDS": "nan"}, "PUSHPULL_PATIENCE_SECONDS=nan"),
            ({"PUSHPULL_SERVERS": "a:1", "PUSHPULL_PATIENCE_SECONDS": "0"}, "PUSHPULL_PATIENCE_SECONDS=0"),
        ],
    )
    def test_says_what_is_wrong_and_where(self, environment: dict[str, str], names: str) -> None:
        with pytest.raises(SettingError, match=names):
            worker_config(environment=environment)


class TestExpectations:
    JOB = JobSpecification(mode=Mode.MODE_BOUNDED, staleness_bound=4, push_codec="topk:0.01+int8")
    JOB.push_overrides.add(pattern="*.bias", codec="fp32")
    JOB.push_overrides.add(pattern="embed*", codec="int8")

    @pytest.mark.parametrize(
        "expected",
        [
            {},
            {"mode": "bounded:4"},
            {"mode": "bounded", "staleness_bound": 4},
            {"push_codec": "topk:0.010+int8"},
            {"push_codec": "ef+topk:0.01+int8"},
            {"push_overrides": {"*.bias": "none+fp32", "embed*": "int8"}},
        ],
    )
    def test_that_hold_are_accepted(self, expected: dict[str, object]) -> None:
        check_expectations(self.JOB, expected)

    @pytest.mark.parametrize(
        ("expected", "names"),
        [
            ({"mode": "sync"}, "mode='sync'"),
            ({"mode": "bounded:5"}, "staleness_bound=5"),
            ({"push_codec": "int8"}, r"push_codec='int8'.*topk:0.01\+int8"),
            ({"push_codec": "none+topk:0.01+int8"}, r"push_codec='none\+topk"),
            ({"push_overrides": {}}, r"push_overrides=\{\}"),
            ({"push_overrides": {"embed*": "int8", "*.bias": "fp32"}}, "push_overrides="),
            ({"pull_codec": "ef+int8"}, "without a memory"),
        ],
    )
    def test_that_differ_are_refused_by_name(self, expected: dict[str, object], names: str) -> None:
        with pytest.raises(SettingError, match=names):
            check_expectations(self.JOB, expected)

    def test_of_unknown_settings_name_the_nearest(self) -> None:
        with pytest.raises(UnknownKeyError, match="did you mean push_codec"):
            check_expectations(self.JOB, {"push_codek": "int8"})


class TestPatience:
    def test_doubles_delays_up_to_a_second(self) -> None:
        patience = Patience(100.0)
        assert [patience.delay_after_failure(0.0) for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]

    def test_ends_with_its_time(self) -> None:
        patience = Patience(2.0)
        assert patience.delay_after_failure(10.0) == 0.2
        assert patience.delay_after_failure(11.9) == pytest.approx(0.1)
        assert patience.delay_after_failure(12.0) is None

    def test_starts_anew_after_a_success(self) -> None:
        patience = Patience(2.0)
        patience.delay_after_failure(0.0)
        patience.succeeded()
        assert patience.delay_after_failure(50.0) == 0.2
