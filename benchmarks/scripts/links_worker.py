"""One pushpull worker of `pushpull bench links`: `examples/char_gpt.py`, which does not know that its steps are recorded.

pushpull worker --servers ... links_worker.py RECORDS_FOLDER [arguments of char_gpt.py]
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from pushpull.benchmarks.links.records import Recording
from pushpull.benchmarks.scripts.char_gpt import load_char_gpt
from pushpull.worker import Worker, connect


class RecordedWorker:
    """A worker that writes down when steps begin and end. Everything else is the worker's own."""

    def __init__(self, worker: Worker, recording: Recording) -> None:
        self._worker = worker
        self._recording = recording

    def share(self, loader: DataLoader[Any]) -> Iterator[Any]:
        for batch in self._worker.share(loader):
            self._recording.step_begins()
            yield batch

    def log(self, **values: float) -> None:
        self._worker.log(**values)
        if "loss" in values:
            self._recording.step_ended(values["loss"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)


def main() -> None:
    folder = Path(sys.argv.pop(1))
    example = load_char_gpt()

    @contextmanager
    def recorded() -> Iterator[RecordedWorker]:
        with connect() as worker:
            yield RecordedWorker(worker, Recording(folder / f"{worker.id}.jsonl"))

    example.connect = recorded  # type: ignore[attr-defined]
    example.main()


if __name__ == "__main__":
    main()
