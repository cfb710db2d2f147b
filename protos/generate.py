"""Regenerates the committed protobuf code: `python -m pushpull.protos.generate [--check]`."""

import argparse
import filecmp
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = ("common.proto", "registrar.proto", "shard.proto")


def generate(destination: Path) -> list[Path]:
    """Writes the generated modules and stubs below `destination` and returns their paths."""
    protoc = importlib.import_module("grpc_tools.protoc")
    tools = importlib.import_module("grpc_tools")
    well_known = Path(str(tools.__file__)).parent / "_proto"
    # The virtual=disk form makes the generated imports say `from pushpull.protos import ...`.
    arguments = [
        "protoc",
        f"-Ipushpull/protos={FOLDER}",
        f"-I{well_known}",
        f"--python_out={destination}",
        f"--pyi_out={destination}",
        f"--grpc_python_out={destination}",
        *(f"pushpull/protos/{source}" for source in SOURCES),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; its messages are above")
    services = {"registrar_pb2_grpc.py", "shard_pb2_grpc.py"}
    made = sorted((destination / "pushpull" / "protos").iterdir())
    return [path for path in made if "_grpc" not in path.name or path.name in services]


def stale_files() -> list[str]:
    """Names of committed generated files that differ from what the sources give now."""
    with tempfile.TemporaryDirectory() as scratch:
        made = generate(Path(scratch))
        return [
            path.name
            for path in made
            if not (FOLDER / path.name).exists() or not filecmp.cmp(path, FOLDER / path.name, shallow=False)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the committed files are current")
    if parser.parse_args().check:
        stale = stale_files()
        sys.exit(f"out of date: {', '.join(stale)}; run python -m pushpull.protos.generate" if stale else 0)
    with tempfile.TemporaryDirectory() as scratch:
        for path in generate(Path(scratch)):
            shutil.copy(path, FOLDER / path.name)


if __name__ == "__main__":
    main()
