"""A file that servers take their first values from: `--init`."""

import hashlib
import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..compression.carried_words import carried_shape, kind_of, travels_as_words, words_of
from ..protos.common_pb2 import Block, Parameter
from ..protos.errors import NonFiniteError, SettingError
from ..protos.parameter_names import plain_name
from .initial_table import InitialTable

SAFETENSORS = ".safetensors"


class InitialFile:
    """Tensors by name, in the file's memory: what is not asked for is not read."""

    def __init__(self, table: InitialTable, tensors: Mapping[str, torch.Tensor]) -> None:
        self.table = table
        self._tensors = tensors

    def values(self, parameter: Parameter, block: Block) -> NDArray[np.float32]:
        """One block of a plan's parameter, float32 [n].

        Raises:
            NonFiniteError: names the parameter; what no optimizer touches may hold what it likes.
        """
        name = self.table.find([parameter.name, *parameter.aliases])
        assert name is not None, "the table was compared with the plan"
        part = self._tensors[name]
        if self.table.as_words(name, parameter):
            part = torch.from_numpy(words_of(part))
        for axis, (offset, size) in enumerate(zip(block.offsets, block.sizes, strict=True)):
            part = part.narrow(axis, offset, size)
        values: NDArray[np.float32] = part.to(torch.float32).contiguous().numpy().reshape(-1)
        if parameter.group >= 0 and not np.isfinite(values).all():
            raise NonFiniteError(
                f"{name} of {self.table.label} holds a NaN or an infinity; training cannot start from it"
            )
        return values


def read_initial_file(path: str) -> InitialFile:
    """Reads a state_dict that torch.save or safetensors wrote. Nothing in it is executed.

    Raises:
        SettingError: names the file and what is wrong with it.
    """
    try:
        return _read(path)
    except OSError as error:
        raise SettingError(f"--init: {path} cannot be read ({error.strerror or error})") from None


def _read(path: str) -> InitialFile:
    file = Path(path)
    if not file.is_file():
        if file.exists():
            raise SettingError(f"--init: {path} is {'a folder' if file.is_dir() else 'a pipe or a device'}, not a file")
        raise SettingError(f"--init: there is no file {path} (working directory {Path.cwd()})")
    found = _safetensors(file) if file.suffix == SAFETENSORS else _state_dict(file)
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise SettingError(
            f"--init: {path} is no map of names to tensors; save it with torch.save(model.state_dict(), {path!r})"
        )
    tensors = {plain_name(name): value for name, value in found.items()}
    with file.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    label = f"the file {file.name} (SHA-256 {checksum})"
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    words = {name: carried_shape(tensor) for name, tensor in tensors.items() if travels_as_words(tensor)}
    unusable = {name: what for name, tensor in tensors.items() if (what := _what_it_is_instead(tensor))}
    kinds = {name: kind_of(tensor) for name, tensor in tensors.items()}
    not_real = {name: _type_of(tensor) for name, tensor in tensors.items() if not tensor.is_floating_point()}
    return InitialFile(InitialTable(label, checksum, shapes, words, kinds, unusable, not_real), tensors)


def _what_it_is_instead(tensor: torch.Tensor) -> str:
    """Of a tensor that is no dense array of numbers in memory; else empty."""
    if tensor.is_meta:
        return "on the meta device, without values,"
    if tensor.layout != torch.strided:
        return "sparse"
    return f"quantized ({_type_of(tensor)})" if tensor.is_quantized else ""


def _type_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _state_dict(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise SettingError(
            f"--init: {file} cannot be read ({first_line}); it must be what torch.save(model.state_dict(), ...) writes, or a "
            f"{SAFETENSORS} file"
        ) from None


def _safetensors(file: Path) -> object:
    try:
        reader = importlib.import_module("safetensors.torch")
    except ImportError:
        raise SettingError(f"--init: {file} needs the package safetensors: pip install safetensors") from None
    try:
        return reader.load_file(file)
    except Exception as error:
        raise SettingError(f"--init: {file} cannot be read ({error})") from None
