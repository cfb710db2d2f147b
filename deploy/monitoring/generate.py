"""Writes the dashboards: `python -m pushpull.deploy.monitoring.generate`, or `make dashboards`."""

import argparse
from pathlib import Path

from .catalogue import DASHBOARDS
from .rendering import dashboard_json
from .runbooks import runbooks

FOLDER = Path(__file__).resolve().parent / "dashboards"


def rendered() -> dict[str, str]:
    """Contents of the files, by name."""
    return {f"{page.uid}.json": dashboard_json(page) for page in (*DASHBOARDS, runbooks())}


def stale_files() -> list[str]:
    """Names of files that differ from what they are made from, are missing, or should not be there."""
    wanted = rendered()
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder to write to")
    arguments = parser.parse_args()
    arguments.into.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (arguments.into / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
