"""Compositions as their users write them, and what is known of one from its parts.

Owns: the spelling `a+b`, what can be a part, and the sums over parts.
Does not know: which adapters there are (`names.py`), nor the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motet.core.composition import MAX_PARTS, composition_digest
from motet.core.messages import AdapterInfo, WeightedAdapter
from motet.core.shape import MODULES
from motet.server.adapter import Version
from motet.server.errors import bad_request

SEPARATOR = "+"  # in no adapter's name


def spelt_parts(model: str, base_name: str) -> Mapping[str, float]:
    """The parts of a model's spelling, each a spelling of its own, with their weights.

    `a+b` has two of weight 1; a spelling without '+' has one. `base:` may stand before the whole
    or before any part. The base model's name is taken as a whole, whatever is in it.

    Raises:
        MotetError: 400 for too many parts, an empty one, or one that is there twice.
    """
    joined = model.removeprefix(f"{base_name}:")
    if model == base_name or SEPARATOR not in joined:
        return {model: 1.0}
    spellings = joined.split(SEPARATOR, MAX_PARTS)
    if len(spellings) > MAX_PARTS:
        raise bad_request(
            f"'model' joins more than {MAX_PARTS} adapters, which is the most that a composition "
            "can have.",
            "model",
        )
    if not all(spellings):
        raise bad_request(
            f"'model' should have a name on either side of each {SEPARATOR!r}, which joins the "
            "adapters of a composition.",
            "model",
        )
    if twice := [each for each in spellings if spellings.count(each) > 1]:
        raise bad_request(
            f"'model' names {twice[0]!r} twice. Name it once, with a weight in 'lora'.", "model"
        )
    return dict.fromkeys(spellings, 1.0)


def require_composable(versions: Sequence[Version], param: str) -> None:
    """Raises MotetError (400) for versions that cannot be composed, as far as they were read.

    Args:
        param: the field that named them, for the error.
    """
    ids: set[str] = set()
    by_digest: dict[str, str] = {}
    for version in versions:
        if version.parts:
            raise bad_request(
                f"{version.id!r} is a composition itself. Name its parts instead.", param
            )
        if version.info is not None and version.info.routed is not None:
            raise bad_request(f"{version.id!r} is a routed set, which is no part of others.", param)
        if version.id in ids:
            raise bad_request(f"{version.id!r} is named twice. Add up the weights.", param)
        ids.add(version.id)
        if version.digest is None:
            continue
        if twin := by_digest.get(version.digest):
            raise bad_request(
                f"{twin!r} and {version.id!r} have the same content. Name one, and add up the "
                "weights.",
                param,
            )
        by_digest[version.digest] = version.id


def weighted(parts: Sequence[tuple[AdapterInfo, float]]) -> list[WeightedAdapter]:
    """The parts of a composition as the engine is told of them."""
    return [WeightedAdapter(info.digest, weight) for info, weight in parts]


def composed_info(parts: Sequence[tuple[AdapterInfo, float]]) -> AdapterInfo:
    """What is known of a composition: sums over its parts, which have nothing in common.

    Its `max_rank` is the sum of theirs, for no projection's delta can have a higher rank.

    Args:
        parts: plain adapters, each once, with their weights.
    """
    infos = [info for info, _ in parts]
    touched = {module for info in infos for module in info.modules}
    return AdapterInfo(
        digest=composition_digest(weighted(parts)),
        max_rank=sum(info.max_rank for info in infos),
        modules=[name for name in (each.name.lower() for each in MODULES) if name in touched],
        num_parameters=sum(info.num_parameters for info in infos),
        num_pages=sum(info.num_pages for info in infos),
    )
