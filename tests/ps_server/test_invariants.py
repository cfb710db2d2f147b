"""The core keeps its invariants."""

from collections.abc import Callable

import invariants
import pytest


@pytest.mark.parametrize("invariant", invariants.ALL, ids=lambda function: function.__name__)
def test_the_core_keeps(invariant: Callable[[], None]) -> None:
    invariant()
