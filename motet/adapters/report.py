"""What `motet check DIR` tells about an adapter: plain data, whether it is accepted or refused.

Owns: the summary of a checkpoint, and how layers and ranks are written for people.
Does not know: how a report is printed, nor device pages.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from motet.adapters.peft_lora import LoraCheckpoint, read_lora, to_deltas
from motet.core.errors import AdapterError
from motet.core.shape import ModelShape


class ModuleSummary(msgspec.Struct, frozen=True):
    """One projection over all layers that the adapter touches it in."""

    module: str  # "q", "k", ... "down"
    layers: str  # such as "0-3,5"
    ranks: list[int]  # distinct, ascending
    scalings: list[float]  # distinct, ascending; what B was multiplied by


class AdapterSummary(msgspec.Struct, frozen=True):
    """What an accepted adapter holds."""

    digest: str
    base_model_name: str | None
    use_rslora: bool
    max_rank: int
    num_parameters: int
    stored_dtypes: list[str]
    modules: list[ModuleSummary]


class Refusal(msgspec.Struct, frozen=True):
    """Why an adapter was refused."""

    code: str
    message: str


class AdapterReport(msgspec.Struct, frozen=True):
    """Exactly one of `summary` and `refusal` is given."""

    path: str
    summary: AdapterSummary | None
    refusal: Refusal | None


def describe(path: Path, shape: ModelShape, *, root: Path | None = None) -> AdapterReport:
    """Check an adapter directory as `load_adapter` does; a refusal is reported, not raised."""
    try:
        summary = _summarise(read_lora(path, shape, root=root))
    except AdapterError as error:
        return AdapterReport(str(path), None, Refusal(error.code, error.message))
    return AdapterReport(str(path), summary, None)


def _summarise(checkpoint: LoraCheckpoint) -> AdapterSummary:
    adapter = to_deltas(checkpoint)
    stored = {str(t.dtype).removeprefix("torch.") for p in checkpoint.pairs for t in (p.a, p.b)}
    by_module = sorted(checkpoint.pairs, key=lambda pair: (pair.module, pair.layer))
    modules = []
    for module, group in groupby(by_module, key=lambda pair: pair.module):
        pairs = list(group)
        modules.append(
            ModuleSummary(
                module=module.name.lower(),
                layers=_ranges([pair.layer for pair in pairs]),
                ranks=sorted({pair.rank for pair in pairs}),
                scalings=sorted({pair.scaling for pair in pairs}),
            )
        )
    return AdapterSummary(
        digest=adapter.digest,
        base_model_name=adapter.base_model_name,
        use_rslora=bool(checkpoint.config.use_rslora),
        max_rank=adapter.max_rank,
        num_parameters=adapter.num_parameters,
        stored_dtypes=sorted(stored),
        modules=modules,
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with runs joined: 0, 1, 2, 5 is "0-2,5"."""
    runs = groupby(enumerate(numbers), key=lambda item: item[1] - item[0])
    return ",".join(_run([number for _, number in run]) for _, run in runs)


def _run(numbers: Iterable[int]) -> str:
    first, *rest = numbers
    return f"{first}-{rest[-1]}" if rest else str(first)
