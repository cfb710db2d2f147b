"""What README and docs/ say exists: links, command lines, targets of make, every error code, every part of the wire."""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.core import TyperGroup

from pushpull.deploy.cli import app
from pushpull.protos import common_pb2, registrar_pb2, shard_pb2
from pushpull.protos.common_pb2 import ErrorCode
from pushpull.protos.errors import CODES

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^\s*(?:\w*\$|#) ?(?=\S)")
OUR_COMMAND = re.compile(r"(\w+=\S+ )*(pushpull|\.venv/bin/pushpull|python -m pushpull\.deploy\.cli) ")
INLINE = re.compile(r"`(pushpull [^`]+)`")
ERROR_ROW = re.compile(r"^\| `([A-Z_]+)` \| `(\w+)` \|", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


@functools.cache
def anchors_of(page: Path) -> frozenset[str]:
    """Fragments that a reader can jump to, as GitHub makes them of headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = sum(
            anchor == words or re.fullmatch(rf"{re.escape(words)}-\d+", anchor) is not None for anchor in found
        )
        found.append(f"{words}-{number}" if number else words)
    return frozenset(found)


def commands_in(page: Path) -> Iterator[str]:
    """Lines behind a prompt, each with the lines that continue it."""
    for _, block in FENCE.findall(text_of(page)):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if PROMPT.match(line):
                yield PROMPT.sub("", line, count=1)


def words_behind_pushpull(line: str) -> list[str] | None:
    """What our command line would be given; None if it is another command. Comments and `&` are the shell's."""
    ours = OUR_COMMAND.match(line)
    return [word for word in shlex.split(line[ours.end() :], comments=True) if word != "&"] if ours else None


PUSHPULL_LINES = [
    pytest.param(words, id=f"{name_of(page)}: {line}"[:100])
    for page in PAGES
    for line in commands_in(page)
    if (words := words_behind_pushpull(line)) is not None
]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (fragment and fragment not in anchors_of(place)):
            broken.append(target)
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {target.partition("#")[0] for target in LINK.findall(prose_of(index))}
    assert {page.name for page in PAGES[1:]} - linked == {"README.md"}


@pytest.mark.parametrize("words", PUSHPULL_LINES)
def test_command_lines_are_ones_that_our_command_understands(words: list[str]) -> None:
    command, name = typer.main.get_command(app), "pushpull"
    words = [word for word in words if word != "--help"]  # which every command understands
    while words and isinstance(command, TyperGroup):
        name, *words = words
        command = command.commands[name]
    if not isinstance(command, TyperGroup):
        command.make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_of_commands_in_running_text_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    strange = []
    for code in INLINE.findall(prose_of(page)):
        _, name, *words = code.split()
        command = group.commands.get(name)
        if command is None:
            strange.append(code)
        elif not isinstance(command, TyperGroup):
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            strange += [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    assert not strange


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    said = {line.split()[1] for line in commands_in(page) if re.match(r"make [a-z]", line)}
    said |= set(re.findall(r"`make ([a-z-]+)", prose_of(page)))
    assert said <= targets


def test_every_error_code_has_its_remedy() -> None:
    rows = dict(ERROR_ROW.findall(text_of(ROOT / "docs" / "troubleshooting.md")))
    assert rows == {ErrorCode.Name(code): kind.__name__ for code, kind in CODES.items()}
    assert rows.keys() == set(ErrorCode.keys()) - {"ERROR_CODE_UNSPECIFIED"}


@pytest.mark.parametrize("module", [registrar_pb2, shard_pb2, common_pb2], ids=["registrar", "shard", "common"])
def test_every_call_and_message_is_in_the_wire_contract(module: ModuleType) -> None:
    named = set(re.findall(r"`(\w+)`", text_of(ROOT / "docs" / "wire-contract.md")))
    services = module.DESCRIPTOR.services_by_name.values()
    calls = {method.name for service in services for method in service.methods}
    assert calls | {service.name for service in services} | set(module.DESCRIPTOR.message_types_by_name) <= named
