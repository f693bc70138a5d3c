"""What a request's model has come to: the versions that it is computed with.

Owns: these values, and the one label in metrics of all compositions that only requests know.
Does not know: how names are found and versions loaded (`registry.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from motet.core.messages import AdapterInfo, WeightedAdapter
from motet.server.adapter import Version
from motet.server.composition import SEPARATOR, require_composable
from motet.server.leases import Lease

# The label of all compositions that only their requests know. One for each would be a time series
# for whatever a client thinks of.
COMPOSED = "_composed"


@dataclass(frozen=True, slots=True)
class Served:
    """What a request is admitted with.

    Attributes:
        info: of the adapter or composition; None is the base model.
        parts: of a composition.
    """

    info: AdapterInfo | None
    parts: Sequence[WeightedAdapter] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """A version that a request is computed with, and the factor on its delta."""

    version_id: str
    weight: float


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a request's model came to. It means exactly this from now on.

    Attributes:
        name: without versions: of a composition that the request spelt out, those of its parts,
            joined by '+'.
        label: one of a bounded number of names, for metrics.
        versions: numbers; none for the base model, and of such a composition one for each part.
        uses: what it is computed with: nothing for the base model, one version at weight 1, or
            the parts of such a composition.
        param: the field that named it, for errors.
        lease: keeps what it needs until the request has ended.
    """

    name: str
    label: str
    param: str
    versions: tuple[int, ...] = ()
    uses: tuple[Use, ...] = ()
    lease: Lease | None = None

    @property
    def is_composed(self) -> bool:
        """Whether the request itself says what it is made of."""
        return any(use.weight != 1.0 for use in self.uses) or len(self.uses) > 1


def resolved_to(versions: Sequence[Version], weights: Sequence[float], param: str) -> Resolved:
    """What named these versions; nothing keeps them yet.

    Raises:
        MotetError: 400, they cannot be composed, as far as they have been read.
    """
    uses = [Use(each.id, weight) for each, weight in zip(versions, weights, strict=True)]
    resolved = Resolved(
        name=SEPARATOR.join(version.name for version in versions),
        label=versions[0].name,
        param=param,
        versions=tuple(version.number for version in versions),
        uses=tuple(uses),
    )
    if not resolved.is_composed:
        return resolved
    require_composable(versions, param)
    return replace(resolved, label=COMPOSED)


def needed_versions(versions: Sequence[Version]) -> list[str]:
    """Ids of these versions, and of the parts of those that are compositions."""
    parts = [part.version_id for version in versions for part in version.parts]
    return [*(version.id for version in versions), *parts]
