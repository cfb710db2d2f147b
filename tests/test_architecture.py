"""The shape of the house: who may import whom, and what keeps the root usable as an import package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushpull.protos.generate import stale_files

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "protos": set[str](),
    "compression": {"protos"},
    "ps_server": {"protos", "compression"},
    "worker": {"protos", "compression"},
    "deploy": {"protos", "compression", "ps_server", "worker"},
    "benchmarks": {"protos", "compression", "ps_server", "worker", "deploy"},
}
"""protos <- compression <- {ps_server, worker} <- deploy; benchmarks see everything."""

MOST_LINES = 400


def sources(package: str) -> list[Path]:
    """Hand-written modules of a package."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if "_pb2" not in path.name)


def imports(path: Path) -> Iterator[tuple[int, int, str]]:
    """(line, level, dotted name) of every import of a module; level counts leading dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, node.level, f"{node.module or ''}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_each_other_only_along_the_arrows(package: str) -> None:
    wrong = []
    for path in sources(package):
        depth = len(path.relative_to(ROOT).parents) - 1  # dots that reach the root from here, less one
        for line, level, name in imports(path):
            other = name.lstrip(".").split(".")[0]
            if level == depth + 1 and other != package and other not in MAY_IMPORT[package]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
            if level > depth + 1:
                wrong.append(f"{path.relative_to(ROOT)}:{line} reaches out of the package")
    assert not wrong


@pytest.mark.parametrize("package", sorted(MAY_IMPORT.keys() - {"benchmarks"}))
def test_our_packages_import_each_other_relatively(package: str) -> None:
    """Benchmarks may say `pushpull`: some of their modules run as training scripts."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} says {name}"
        for path in sources(package)
        for line, level, name in imports(path)
        if level == 0 and name.split(".")[0] in {"pushpull", *MAY_IMPORT}
    ]
    assert not wrong


def test_nobody_imports_a_package_of_ours_by_its_folders_name() -> None:
    """`import worker` works in the root folder and nowhere else; it is `pushpull.worker`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} says {name}"
        for folder in ("tests", "examples", *MAY_IMPORT)
        for path in sources(folder)
        for line, level, name in imports(path)
        if level == 0 and name.split(".")[0] in MAY_IMPORT
    ]
    assert not wrong


def test_compression_has_no_init_so_that_it_never_hides_the_standard_librarys_package() -> None:
    assert not (ROOT / "compression" / "__init__.py").exists()


def test_no_folder_of_the_tests_is_a_package_and_no_two_test_files_share_a_name() -> None:
    files = list((ROOT / "tests").rglob("*.py"))
    assert not [path for path in files if path.name == "__init__.py"]
    names = [path.name for path in files if path.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)


def test_the_standard_librarys_compression_modules_work_in_the_root_folder() -> None:
    program = "import gzip, bz2, lzma; assert gzip.decompress(gzip.compress(b'x')) == b'x'"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_the_generated_wire_contract_is_current() -> None:
    assert stale_files() == [], "run `make protos`"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_module_grows_beyond_what_one_reads_in_a_sitting(package: str) -> None:
    long = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(package)
    }
    assert {path: lines for path, lines in long.items() if lines > MOST_LINES} == {}


def test_asking_for_help_loads_neither_torch_nor_numba() -> None:
    program = (
        "import sys; sys.argv = ['pushpull', '--help']\n"
        "from pushpull.deploy.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)
