"""Who sends a request, and what they may do: the answer of authentication.

Owns: the roles, `Principal`, and which adapters one may see.
Does not know: keys (`auth.py` turns one into a principal), nor routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase


class Role(Enum):
    """What a key is for."""

    INFERENCE = "inference"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone with a key, or anyone where there are no keys.

    Attributes:
        key_id: names the key in logs and limits; never the key itself. None without keys.
        tenant: whose requests share cached prefixes, and whom a log line names; None without keys.
        roles: what the key is for; an admin may do everything.
        adapters: names of adapters that it may use, with `*` and `?` as wildcards; None is all.
        weight: its tenant's share of the engine, relative to those of others, where a policy is
            fair.
    """

    key_id: str | None
    tenant: str | None
    roles: frozenset[Role]
    adapters: Sequence[str] | None
    weight: float = 1.0

    @property
    def is_admin(self) -> bool:
        return Role.ADMIN in self.roles

    def may_use(self, adapter: str) -> bool:
        """Whether it may see and use the adapter of this name. The base model is open to all."""
        if self.adapters is None or self.is_admin:
            return True
        # To fnmatch, [ begins a set of characters; here it is a character.
        return any(fnmatchcase(adapter, each.replace("[", "[[]")) for each in self.adapters)


# Where no key is set, whoever reaches the server may do everything.
ANYONE = Principal(None, None, frozenset(Role), None)
