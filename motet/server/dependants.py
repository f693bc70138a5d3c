"""What is made of other versions, and would be broken without them.

Owns: the answer to which versions need a version; deleting asks here.
Does not know: what becomes of a deletion that is refused (`adapter_changes.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from motet.core.errors import MotetError
from motet.server.adapter import Version, VersionState
from motet.server.catalogue import Catalogue


def dependants_of(version: Version, catalogue: Catalogue) -> Iterator[Version]:
    """The versions that can be used only while this one is there.

    Not among them are those that drain, for they hold what their requests need in the engine, and
    those that failed before they could ever be used.
    """
    for adapter in catalogue.all():
        for other in adapter.versions.values():
            has_failed = other.state is VersionState.FAILED and other.digest is None
            if not (other.is_draining or has_failed) and _needs(other, version):
                yield other


def require_independent(versions: Collection[Version], catalogue: Catalogue, param: str) -> None:
    """Raises MotetError (409) if what stays needs one of these.

    Args:
        param: the field that named them, for the error.
    """
    ids = {version.id for version in versions}
    for version in versions:
        for other in dependants_of(version, catalogue):
            if other.id not in ids:
                raise MotetError(
                    f"{other.id!r} is made of {version.id!r}. Delete that first; to force this "
                    "would break it.",
                    code="adapter_in_use",
                    param=param,
                )


def _needs(other: Version, version: Version) -> bool:
    return any(part.version_id == version.id for part in other.parts)
