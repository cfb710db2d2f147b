"""Makes the helpers beside these tests, and those of the launcher's tests, importable."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "deploy")]
