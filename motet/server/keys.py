"""What a key is, and what it allows.

Owns: the record of a key, the making of a new one, and its digest.
Does not know: where records are kept (`key_file.py`), nor requests.

A key is 32 random bytes, shown once, to whoever makes it. Everything else knows its SHA-256
digest alone: with that much randomness a digest cannot be turned back, so a slow password hash
would add nothing but work for every request.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from motet.server.principal import Principal, Role

KEY_PREFIX = "mk-"  # so that a key is recognized where it should not be, such as in a log
_NUM_KEY_BYTES = 32

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
# Of an adapter's name, with wildcards; no character of it means anything else.
_Pattern = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._/*?-]{1,128}$")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
_Limit = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
# Bounded on both sides: what a request costs is divided by it.
_Weight = Annotated[float, msgspec.Meta(ge=0.01, le=100)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one key may use; None is no limit.

    Attributes:
        requests_per_minute: requests of any kind.
        tokens_per_minute: tokens of prompts and answers together.
        max_concurrent: requests at the same time.
    """

    requests_per_minute: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    max_concurrent: _Limit | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as everything but its holder knows it.

    Attributes:
        id: names it in logs, limits and commands.
        sha256: digest of the key, in hexadecimal.
        tenant: keys of one tenant share cached prefixes, and their turns where a policy is fair.
        adapters: names that it may use, with the wildcards `*` and `?`; None is all.
        weight: the share of requests with this key, relative to those of other tenants' keys,
            where a policy is fair.
        expires_at: from then on it opens nothing; None is never.
    """

    id: _Name
    sha256: _Digest
    roles: Annotated[list[Role], msgspec.Meta(min_length=1)]
    tenant: _Name
    adapters: list[_Pattern] | None = None
    limits: KeyLimits = msgspec.field(default_factory=KeyLimits)
    weight: _Weight = 1.0
    created_at: _Time
    expires_at: _Time | None = None

    @property
    def principal(self) -> Principal:
        """Who comes with this key."""
        adapters = None if self.adapters is None else tuple(self.adapters)
        return Principal(self.id, self.tenant, frozenset(self.roles), adapters, self.weight)

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at


def new_secret() -> str:
    """A key that has never been."""
    return KEY_PREFIX + secrets.token_urlsafe(_NUM_KEY_BYTES)


def digest_of(secret: str) -> str:
    """The digest under which a key is known."""
    return hashlib.sha256(secret.encode()).hexdigest()


def utc_now() -> datetime:
    """The time that keys are made and expire in."""
    return datetime.now(UTC)
