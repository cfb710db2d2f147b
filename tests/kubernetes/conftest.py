"""Tests of the chart are skipped where Helm's library or the schemas of Kubernetes are not installed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from charts import VALUE_SETS, Rendered, render

NEEDED = {"helm_python": "helm-python-sdk", "kubernetes_validate": "kubernetes-validate"}


@pytest.fixture(autouse=True, scope="session")
def _packages() -> None:
    for module, package in NEEDED.items():
        pytest.importorskip(module, reason=f"{package} is not installed: pip install -e '.[kubernetes]'")
    import helm_python

    helm_python.disable_logging()


@pytest.fixture(params=VALUE_SETS, scope="module")
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """A release with each set of values."""
    return render(VALUE_SETS[request.param])
