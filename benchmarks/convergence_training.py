"""The examples, trained by real servers and workers on this machine with one push codec after the other."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..compression.encoder_spec import parse_encoder
from ..compression.spec import FAMILIES
from ..protos.errors import PushpullError

NUM_WORKERS = 2
NUM_SERVERS = 2
EXACT = "fp32"
"""The codec that the others are compared with."""
_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_LONGEST_RUN_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An example, how it is trained, and with what."""

    name: str
    example: str
    arguments: tuple[str, ...] = ()
    num_steps: int
    metrics: tuple[str, ...]
    """On held-out data, as the example logs them; the last one is the loss."""
    learning_rate: float
    encoders: tuple[str, ...]
    """Specifications to compare."""

    @property
    def script(self) -> Path:
        return _EXAMPLES / f"{self.example}.py"

    @property
    def held_out_loss(self) -> str:
        return self.metrics[-1]

    def case(self, encoder: str, seed: int) -> "Case":
        """Momentum multiplies a lasting gradient by 1 / (1 - momentum); the rate is lower by as much."""
        momentum = parse_encoder(encoder).memory.momentum
        return Case(self.name, encoder, seed, round(self.learning_rate * (1.0 - momentum), 6))


def family_members() -> Iterator[str]:
    """Two specifications of each family of codecs."""
    for family in FAMILIES:
        yield from (_OWN_THRESHOLD if family.name == "threshold" else spec for spec in family.examples[:2])


_OWN_THRESHOLD = "threshold:0.01+fp16"
"""A magnitude that few elements of these examples' gradients reach in one step."""

DIGITS = Experiment(
    name="digits",
    example="digits",
    num_steps=300,
    metrics=("accuracy", "test_loss"),
    learning_rate=0.5,
    encoders=(
        *family_members(),
        *("none+topk:0.01+fp16", "none+sign", "dgc:0.9+topk:0.01+fp16", "momentum:0.9+int8"),
    ),
)
CHAR_GPT = Experiment(
    name="char_gpt",
    example="char_gpt",
    arguments=(
        *("--width", "64", "--layers", "2", "--context", "64"),
        *("--text-bytes", "1000000", "--validate-every", "400"),
    ),
    num_steps=400,
    metrics=("validation_loss",),
    learning_rate=2e-3,
    encoders=(*family_members(), "none+topk:0.01+fp16", "none+sign"),
)
CHAR_GPT_SGD = replace(
    CHAR_GPT,
    name="char_gpt_sgd",
    arguments=(*CHAR_GPT.arguments, "--optimizer", "sgd"),
    learning_rate=0.2,
    encoders=(
        *("topk:0.01+fp16", "none+topk:0.01+fp16", "sign", "none+sign"),
        *("momentum:0.9+fp32", "dgc:0.9+topk:0.01+fp16"),
    ),
)
"""Without optimizer state on the servers, which sees the bursts of error feedback as changes of the gradient."""


@dataclass(frozen=True)
class Case:
    """One run. The seed decides the initial parameters, the order of the data and what codecs draw."""

    experiment: str
    codec: str
    seed: int
    learning_rate: float


@dataclass(frozen=True)
class Training:
    """How a run went."""

    case: Case
    metrics: dict[str, float]
    """On held-out data, after the last step; empty if the run failed."""
    losses: tuple[float, ...]
    """On the training data, of worker 0 after each step."""
    bytes_per_step: float
    """Pushed by one worker in one step, frames with their envelopes."""
    error: str | None
    """Why the run failed; None if it did not."""


class Results:
    """A file of runs, one JSON object a line, that grows with each one; a case that is there is not run again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trainings = {training.case: training for training in self._read()}

    def of(self, experiment: Experiment, cases: Iterable[Case]) -> Iterator[Training]:
        """The runs of these cases, each one run now unless the file has it."""
        for case in cases:
            if case not in self._trainings:
                self._trainings[case] = train(experiment, case)
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a") as file:
                    file.write(json.dumps(asdict(self._trainings[case])) + "\n")
            yield self._trainings[case]

    def _read(self) -> Iterator[Training]:
        if not self._path.exists():
            return
        for line in self._path.read_text().splitlines():
            fields = json.loads(line)
            yield Training(**{**fields, "case": Case(**fields["case"]), "losses": tuple(fields["losses"])})


def train(experiment: Experiment, case: Case) -> Training:
    """Launches a cluster for one case, in synchronous mode; parameters are pulled as fp32."""
    with tempfile.TemporaryDirectory() as folder:
        history = Path(folder) / "history.json"
        summary = launch(experiment, case, history)
        pushes = NUM_WORKERS * max(1, summary["rounds"])
        return Training(
            case=case,
            metrics={name: value for name, value in summary["metrics"].items() if name != "loss"},
            losses=tuple(json.loads(history.read_text())) if history.exists() else (),
            bytes_per_step=summary["bytes_pushed"] / pushes,
            error=summary["error"],
        )


def launch(experiment: Experiment, case: Case, history: Path) -> dict[str, Any]:
    """Runs a cluster to its end; the launcher's summary."""
    command = _launch_command(experiment, case, history)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_RUN_SECONDS, check=False)
    if not done.stdout.strip():
        raise PushpullError(f"{' '.join(command)} printed no summary; it said:\n{done.stderr}")
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def _launch_command(experiment: Experiment, case: Case, history: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pushpull.deploy.cli", "launch", "--json"),
        *("--servers", str(NUM_SERVERS), "--workers", str(NUM_WORKERS)),
        *("--set", "mode=sync", "--set", f"push_codec={case.codec}", "--set", f"seed={case.seed}"),
        *(str(experiment.script), "--steps", str(experiment.num_steps), *experiment.arguments),
        *("--learning-rate", str(case.learning_rate), "--seed", str(case.seed), "--history", str(history)),
    ]
