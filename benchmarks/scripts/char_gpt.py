"""`examples/char_gpt.py`, as the benchmarks' own scripts use it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "char_gpt.py"


def load_char_gpt() -> ModuleType:
    """The example as a module."""
    specification = importlib.util.spec_from_file_location("char_gpt", _EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["char_gpt"] = module
    specification.loader.exec_module(module)
    return module
