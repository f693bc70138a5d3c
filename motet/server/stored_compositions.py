"""Compositions that get a name: from what an admin writes to parts that never change.

Owns: which versions the parts of a stored composition are.
Does not know: how a version is deployed (`deployments.py`), nor how its parts are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from motet.server.adapter import Adapter, Part, Version
from motet.server.composition import require_composable
from motet.server.errors import bad_request
from motet.server.names import no_such_model
from motet.server.principal import ANYONE
from motet.server.registry import AdapterRegistry

_PARAM = "source.parts"


async def pinned_parts(
    registry: AdapterRegistry, name: str, weights: Mapping[str, float]
) -> tuple[Part, ...]:
    """The versions that these names mean now, in the same order.

    A name with a canary is the version that most of its requests get. What has never been read is
    read, for its digest.

    Args:
        name: of the composition; its parts have others.
        weights: by name or version (`sql` or `sql@2`).

    Raises:
        AdapterError: a part cannot be read.
        MotetError: 404 for a part that is not there; 400 for one that cannot be composed, or if
            the whole is nothing but one adapter.
    """
    if list(weights.values()) == [1.0]:
        raise bad_request(
            "One adapter at weight 1 is that adapter itself. Give it another weight, or a second "
            "part.",
            _PARAM,
        )
    versions = [await _read_version(registry, model) for model in weights]
    require_composable(versions, _PARAM)
    if any(version.name == name for version in versions):
        raise bad_request(f"A composition cannot have the name of its part {name!r}.", _PARAM)
    return tuple(_part(*each) for each in zip(versions, weights.values(), strict=True))


async def _read_version(registry: AdapterRegistry, model: str) -> Version:
    found = await registry.names.find(model, ANYONE, _PARAM)
    if found is None:
        raise bad_request(
            f"{model!r} is the base model, which every composition is added to.", _PARAM
        )
    version = found.main if isinstance(found, Adapter) else found
    assert version is not None  # only names that mean something are found
    if version.digest is not None:
        return version
    await registry.load_version(version.id)
    read = registry.names.version(version.id)
    if read is None or read.digest is None:  # it was deleted meanwhile
        raise no_such_model(model, _PARAM)
    return read


def _part(version: Version, weight: float) -> Part:
    assert version.digest is not None  # it has been read
    return Part(version.name, version.number, version.digest, weight)
