"""What can be said of a training script before anything is started for it. Runs nothing of it."""

import ast
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from ..protos.errors import SettingError


def check_script(script: str) -> None:
    """Refuses a script that cannot run, in a moment and not when servers wait for it.

    Of its imports those are looked for that come first of all: what else has run by then, such as a module beside the script,
    may have changed where modules are found.

    Raises:
        SettingError: there is no such file, it is not Python, or it begins with the import of a module that there is not.
    """
    path = Path(script)
    if not path.is_file():
        raise SettingError(f"There is no script {script} (working directory {Path.cwd()}).")
    tree = _parsed(script, path)
    folder = str(path.resolve().parent)
    for line, name in _first_imports(tree):
        spec = _found(name, [folder, *(sys.path if sys.flags.safe_path else sys.path[1:])])
        if spec is None:
            raise SettingError(
                f"The script {script} cannot run: line {line} imports {name}, and {sys.executable} has no module of that name. "
                "Install it there, or correct the name."
            )
        if spec.origin is not None and Path(spec.origin).resolve().is_relative_to(folder):
            return


def _parsed(script: str, path: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python says them when it runs the script
            content = path.read_bytes()
            compile(content, script, "exec", dont_inherit=True)
            return ast.parse(content, script)
    except SyntaxError as error:
        where = "" if error.lineno is None else f"line {error.lineno}: "
        raise SettingError(f"The script {script} cannot run: {where}{error.msg}.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SettingError(f"The script {script} cannot run: {error}.") from None
    except OSError as error:
        raise SettingError(f"The script {script} cannot be read: {error.strerror}.") from None


def _first_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every import until the first statement that does something else."""
    for statement in tree.body:
        match statement:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Import(names=names):
                yield from ((statement.lineno, alias.name.partition(".")[0]) for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield statement.lineno, module.partition(".")[0]
            case _:
                return


def _found(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """As the script's `import` would find it."""
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None:
            continue
        found: ModuleSpec | None = find_spec(name, path) if finder is PathFinder else find_spec(name, None)
        if found is not None:
            return found
    return None
