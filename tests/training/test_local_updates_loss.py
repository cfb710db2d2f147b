"""Local updates on the character model: one push in 20 steps costs little loss and saves almost all bytes.

Takes about two minutes on two cores: `make test-convergence`, not part of `make test`.
"""

import pytest

from pushpull.benchmarks.local_updates import AVERAGING, EVERY_STEP, GENTLE_DILOCO, LOCAL_STEPS, Run, Variant, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_STEPS = 400


@pytest.fixture(scope="module")
def reference() -> Run:
    return run(EVERY_STEP, NUM_STEPS)


@pytest.mark.parametrize("variant", [AVERAGING, GENTLE_DILOCO], ids=lambda variant: variant.name)
def test_reaches_the_loss_of_a_push_every_step_within_5_percent(variant: Variant, reference: Run) -> None:
    local = run(variant, NUM_STEPS)
    print(local, reference)
    assert local.validation_loss <= 1.05 * reference.validation_loss
    assert local.num_rounds == NUM_STEPS // LOCAL_STEPS
    assert local.bytes_pushed <= 1.01 * reference.bytes_pushed / LOCAL_STEPS
