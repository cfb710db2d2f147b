"""Files of settings in YAML."""

from pathlib import Path
from typing import Any

import yaml

from ..protos.errors import SettingError


def read_yaml(path: Path, what: str, option: str) -> Any:
    """What the file holds. `what` it is and the `option` that names it are said if it cannot be read.

    Raises:
        SettingError: it cannot be read, is not valid YAML, or says something twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise SettingError(f"The {what} {path} cannot be read: {error.strerror}. Change {option}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SettingError(f"The {what} {path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise SettingError(f"The {what} {path} is nested too deeply.") from None


class _Loader(yaml.SafeLoader):
    """Of a key that stands twice in one place the first is lost without a word in YAML; here it is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` is said twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
