"""What a file of initial values holds, as far as a plan must be compared with it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..protos.common_pb2 import Parameter, Plan
from ..protos.errors import BadRequestError, PlanMismatchError
from ..protos.registrar_pb2 import ShardHello

MOST_NAMED = 5


@dataclass(frozen=True)
class InitialTable:
    """Names and shapes in a file."""

    label: str
    """Of the file, for people."""
    checksum: str
    """Of its bytes: every server of a job must have the same."""
    shapes: Mapping[str, Sequence[int]]
    words: Mapping[str, Sequence[int]]
    """Shapes in a plan of tensors that may be handed on as words, which buffers of other types than float32 are."""
    kinds: Mapping[str, str]
    """Type and shape of each tensor, as a plan says it of what travels as words."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """Tensors that nothing can be read of in rows of numbers, with what they are instead."""
    not_real: Mapping[str, str] = field(default_factory=dict)
    """Tensors that are no real numbers, with their type: they can be handed on as words only."""

    def find(self, names: Iterable[str]) -> str | None:
        """Under which of a parameter's names (tied weights have several) the file has it."""
        return next((name for name in names if name in self.shapes), None)

    def as_words(self, name: str, parameter: Parameter) -> bool:
        """Whether what is under the name is what the plan's words stand for."""
        carried = parameter.group < 0 and parameter.carries == self.kinds[name]
        return carried and list(parameter.shape) == list(self.words.get(name, ()))

    def check(self, plan: Plan) -> None:
        """The file has every parameter and buffer of the plan, in its shape and as numbers. What else it has does not matter.

        Raises:
            PlanMismatchError: names what is missing, has another shape, or cannot be taken as it is.
        """
        missing, other = [], []
        for parameter in plan.parameters:
            name = self.find([parameter.name, *parameter.aliases])
            if name is None:
                missing.append(parameter.name)
            elif found := self._unlike(name, parameter):
                other.append(f"{parameter.name} {found}")
        faults = [f"the file lacks {_listed(missing)}"] if missing else []
        faults += other[:MOST_NAMED]
        if faults:
            raise PlanMismatchError(
                f"{self.label} does not fit the model of this worker: {'; '.join(faults)}. The file has "
                f"{_listed(list(self.shapes))}; save it with torch.save(model.state_dict(), ...) from the same model"
            )

    def _unlike(self, name: str, parameter: Parameter) -> str:
        """Why what is under the name cannot become the values of the parameter; else empty."""
        if name in self.unusable:
            return f"is {self.unusable[name]} in the file"
        if parameter.carries:
            if self.as_words(name, parameter):
                return ""
            return f"is {self.kinds[name]} in the file and {parameter.carries} in the model"
        if list(parameter.shape) != list(self.shapes[name]):
            here, there = tuple(parameter.shape), tuple(self.shapes[name])
            return f"has shape {there} in the file and {here} in the model"
        if name in self.not_real:
            return f"is {self.not_real[name]} in the file and of real numbers in the model"
        return ""


def check_same_file(mine: InitialTable | None, hello: ShardHello) -> None:
    """Raises BadRequestError if a shard that links was started with another file than shard 0, or without its file."""
    if hello.initial_checksum == ("" if mine is None else mine.checksum):
        return
    theirs = f"another file (SHA-256 {hello.initial_checksum})" if hello.initial_checksum else "no --init"
    raise BadRequestError(
        f"shard 0 was started with {'no --init' if mine is None else mine.label}, but shard {hello.shard} at {hello.address} "
        f"with {theirs}; start every server with the same --init FILE, or none"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED]) or 'nothing'}{more}"
