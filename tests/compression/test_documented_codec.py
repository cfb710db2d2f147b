"""The codec that docs/codecs.md adds as an example keeps the contract of all codecs, with one file and one row."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "codecs.md").read_text(encoding="utf-8")


@pytest.fixture
def package_with_the_codec(tmp_path: Path) -> Path:
    """A copy of the package to which the page was applied."""
    copy = tmp_path / "pushpull"
    for package in ("compression", "protos"):
        shutil.copytree(ROOT / package, copy / package)
    shutil.copytree(ROOT / "tests" / "compression", tmp_path / "tests")
    section = PAGE[PAGE.index("## Adding a codec") :]
    file, row = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)
    (copy / "compression" / "values" / "powers.py").write_text(file)
    table = copy / "compression" / "spec.py"
    source = table.read_text()
    applied = source.replace("import cast, ", "import powers, cast, ")
    applied = applied.replace('    ValueFamily("sign"', row + '    ValueFamily("sign"')
    assert applied.count("powers") > source.count("powers") + 3
    table.write_text(applied)
    return tmp_path


def test_the_example_of_the_page_keeps_the_contract_of_all_codecs(package_with_the_codec: Path) -> None:
    chosen = "powers and not topk and not randk"
    arguments = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", chosen, "test_codec_contract.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=package_with_the_codec / "tests",
        env=os.environ | {"PYTHONPATH": str(package_with_the_codec)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60
