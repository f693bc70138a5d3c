"""What a kind of workload is: its parameters, with types, limits and defaults, and how it is drawn.

Owns: reading parameters, also from the strings of a command line, and saying what is wrong in them.
Does not know: any kind (`named.py` lists them).
"""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from motet.bench.workload import Workload, WorkRequest


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a kind are the fields of a subclass, in plain JSON types.

    Each is `Annotated` with a `msgspec.Meta` that has its limits, and a line of help as the
    description. What two of them must have to do with each other is checked in `__post_init__`,
    which raises ValueError.
    """


SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What came of drawing a workload.

    Attributes:
        requests: in the order of their arrival, with their index in it.
        ranks: the rank of each adapter that they ask for; empty where a kind has no say in it.
    """

    requests: Sequence[WorkRequest]
    ranks: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter, for those who ask for it by name.

    Attributes:
        type_name: such as "int" or "poisson|constant"; a list is written with commas.
        default: a plain JSON value; None as well if there has to be a value.
        help: one line.
    """

    name: str
    type_name: str
    default: Any
    is_required: bool
    help: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A parameter that the evaluation a workload is from went through, and its values there."""

    parameter: str
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class WorkloadKind(Generic[SpecT]):
    """A workload by name.

    Attributes:
        description: one line.
        spec_type: its parameters.
        draw: the requests of these parameters and a seed; equal ones give equal requests.
        defaults: those that differ from the defaults of `spec_type`.
        sweep: what a paper went through; None if there was none.
    """

    name: str
    description: str
    spec_type: type[SpecT]
    draw: Callable[[SpecT, int], Drawn]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sweep: Sweep | None = None

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All that it takes, by name."""
        return {each.name: self._parameter(each) for each in self._fields}

    def make(self, parameters: Mapping[str, Any], seed: int) -> Workload:
        """Draw it.

        Args:
            parameters: by name; a value is of the parameter's type, or a string that spells it.
            seed: from 0 to 2**32 - 1.

        Raises:
            ValueError: an unknown, missing or wrong parameter, with what was expected.
        """
        if not 0 <= seed < 2**32:
            raise ValueError(f"The seed is {seed}: expected a number from 0 to 2**32 - 1.")
        spec = self.spec(parameters)
        drawn = self.draw(spec, seed)
        return Workload(
            name=self.name,
            seed=seed,
            parameters={**_plain(spec), "ranks": dict(drawn.ranks)},
            requests=drawn.requests,
        )

    def spec(self, parameters: Mapping[str, Any]) -> SpecT:
        """The parameters, checked. Raises as `make` does."""
        fields = {each.name: each for each in self._fields}
        if unknown := sorted(set(parameters) - set(fields)):
            raise ValueError(
                f"Workload {self.name} has no parameter {', '.join(unknown)}; "
                f"it has {', '.join(fields)}."
            )
        given = {**self.defaults, **parameters}
        if missing := [
            name for name, each in fields.items() if each.required and name not in given
        ]:
            raise ValueError(f"Workload {self.name} needs a value for {', '.join(missing)}.")
        values = {name: self._read(fields[name], value) for name, value in given.items()}
        try:
            return self.spec_type(**values)
        except ValueError as error:
            raise ValueError(f"Workload {self.name}: {error}") from error

    @property
    def _fields(self) -> tuple[msgspec.structs.FieldInfo, ...]:
        return msgspec.structs.fields(self.spec_type)

    def _read(self, info: msgspec.structs.FieldInfo, value: Any) -> Any:
        if isinstance(value, str) and get_origin(_bare(info.type)) is tuple:
            value = [part.strip() for part in value.split(",")]
        try:
            return msgspec.convert(value, info.type, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(
                f"Parameter {info.name} of workload {self.name} is {value!r}, expected "
                f"{_type_name(_bare(info.type))}: {error}."
            ) from error

    def _parameter(self, info: msgspec.structs.FieldInfo) -> Parameter:
        default = self.defaults.get(info.name, None if info.required else info.default)
        return Parameter(
            name=info.name,
            type_name=_type_name(_bare(info.type)),
            default=_plain(default),
            is_required=info.required and info.name not in self.defaults,
            help=_help(info.type),
        )


def _plain(value: Any) -> Any:
    """As it comes back from a file: tuples become lists, structs become objects."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _bare(kind: Any) -> Any:
    """A type without its `Annotated`."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _help(kind: Any) -> str:
    metas: Iterable[Any] = kind.__metadata__ if get_origin(kind) is Annotated else ()
    return next((m.description for m in metas if isinstance(m, msgspec.Meta) and m.description), "")


def _type_name(kind: Any) -> str:
    """How a type is told to a person: a list by its items, a choice by what there is to choose."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "|".join(args)
    if origin is tuple:
        return ",".join("…" if each is Ellipsis else _type_name(_bare(each)) for each in args)
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(_bare(each)) for each in args)
    return "null" if kind is type(None) else str(kind.__name__)
