"""Prints the requirements of the package in pyproject.toml, one a line: `requirements.py EXTRA,...`.

So an image can install them before it has the sources, and keeps them when only the sources change.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for name in sys.argv[1].split(",") if name]
    for requirement in project["dependencies"]:
        print(requirement)
    for extra in extras:
        print("\n".join(project["optional-dependencies"][extra]))


if __name__ == "__main__":
    main()
