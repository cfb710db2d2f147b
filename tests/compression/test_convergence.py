"""What memory is for: problems on which a compressed gradient leads astray without it and does not with it."""

import pytest

from pushpull.benchmarks.convergence_logistic import LogisticProblem, descend, synthetic_problem
from pushpull.benchmarks.convergence_signs import NarrowValley, RareLargeGradients, walk
from pushpull.benchmarks.convergence_tables import cost, training_table
from pushpull.benchmarks.convergence_training import Case, Training

ONE_OF_200 = "0.005"


@pytest.fixture(scope="module")
def problem() -> LogisticProblem:
    return synthetic_problem(num_samples=5_000, num_features=200)


@pytest.fixture(scope="module")
def full_loss(problem: LogisticProblem) -> float:
    return descend(problem, "fp32", num_epochs=3).losses[-1]


class TestLogisticRegression:
    """Single-sample SGD, 200 features, one of them sent in a step."""

    def test_full_sgd_comes_near_the_optimum(self, problem: LogisticProblem, full_loss: float) -> None:
        assert 0.0 < full_loss - problem.smallest_loss() < 5e-3

    def test_top_1_with_memory_ends_where_full_sgd_does(self, problem: LogisticProblem, full_loss: float) -> None:
        top_1 = descend(problem, f"topk:{ONE_OF_200}+fp32", num_epochs=3)
        assert abs(top_1.losses[-1] - full_loss) < 1e-3

    def test_random_1_with_memory_comes_near_later(self, problem: LogisticProblem, full_loss: float) -> None:
        random_1 = descend(problem, f"randk:{ONE_OF_200}:unscaled+fp32", num_epochs=3)
        assert abs(random_1.losses[-1] - full_loss) < 1e-2

    def test_top_1_without_memory_is_visibly_wrong(self, problem: LogisticProblem) -> None:
        forgetful = descend(problem, f"none+topk:{ONE_OF_200}+fp32", num_epochs=3)
        assert forgetful.losses[-1] > 1.0


class TestSigns:
    """Karimireddy et al. 2019."""

    def test_signs_alone_walk_to_the_worst_point(self) -> None:
        assert walk(RareLargeGradients(), "none+sign", fixed_length=True).point[0] > 0.9

    def test_with_error_feedback_they_walk_to_the_best(self) -> None:
        assert walk(RareLargeGradients(), "sign").point[0] < -0.9

    @pytest.mark.parametrize("fixed_length", [False, True])
    def test_signs_alone_never_leave_the_start_of_the_valley(self, fixed_length: bool) -> None:
        assert walk(NarrowValley(), "none+sign", fixed_length=fixed_length).value > 0.99

    def test_with_error_feedback_they_reach_its_bottom(self) -> None:
        assert walk(NarrowValley(), "sign").value < 0.02


class TestTables:
    def test_a_codec_is_compared_with_fp32_of_the_same_seed(self) -> None:
        exact = {0: _training("fp32", 0, 1.0), 1: _training("fp32", 1, 3.0)}
        costs = cost([_training("int8", 0, 1.5), _training("int8", 1, 3.5)], exact, "loss")
        assert (costs.mean, costs.difference, costs.spread) == (2.5, 0.5, 0.0)

    def test_a_run_that_failed_is_said_to_have_failed(self) -> None:
        failed = Training(Case("digits", "int8", 0, 0.5), {}, (), 10.0, "a worker ended with status 1")
        table = training_table([_training("fp32", 0, 1.0), failed], ["loss"])
        assert "| `int8` | 10 | 4.0x | failed |  |" in table


def _training(codec: str, seed: int, loss: float) -> Training:
    return Training(Case("digits", codec, seed, 0.5), {"loss": loss}, (), 40.0, None)
