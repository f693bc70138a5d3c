"""The keys that open this server: those of its options, and those of a file that it follows.

Owns: the look-up of a key, and noticing within a second that the file has changed.
Does not know: what a key is asked for (`auth.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path

import structlog

from motet.core.errors import ConfigError
from motet.server.config import ServeConfig
from motet.server.key_file import read_keys
from motet.server.keys import Key, digest_of, utc_now
from motet.server.principal import Role

_LOOK_INTERVAL_S = 0.5

_log = structlog.get_logger()


class KeyRing:
    """Keys by digest.

    Args:
        fixed: keys that stay as long as the server does.
        now: the time by which keys expire.
    """

    def __init__(self, fixed: Sequence[Key], now: Callable[[], datetime] = utc_now) -> None:
        self._fixed = tuple(fixed)
        self._now = now
        self._keys: dict[str, Key] = {}
        self.replace_others(())

    def replace_others(self, keys: Sequence[Key]) -> None:
        """Put these in the place of all keys that are not fixed."""
        self._keys = {key.sha256: key for key in (*keys, *self._fixed)}

    def find(self, secret: str) -> Key | None:
        """The key that this is, expired or not; None if it is none.

        The digest is looked up in a dictionary and then compared in constant time. The time of
        the look-up depends on bits of the digest, which whoever guesses keys cannot steer: to
        learn from it they would have to find keys with chosen digests. So it leaks nothing, and
        takes as long for ten thousand keys as for one.
        """
        digest = digest_of(secret)
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(digest, key.sha256):
            return None
        return key

    def has_expired(self, key: Key) -> bool:
        return key.has_expired(self._now())


def fixed_keys(config: ServeConfig) -> list[Key]:
    """The keys that are options. Without an admin key, the API key is one."""
    keys = []
    if config.api_key is not None:
        roles = [Role.INFERENCE] if config.admin_key is not None else list(Role)
        keys.append(_fixed_key("api", config.api_key, roles))
    if config.admin_key is not None:
        keys.append(_fixed_key("admin", config.admin_key, list(Role)))
    return keys


def _fixed_key(name: str, secret: str, roles: list[Role]) -> Key:
    # The option's own name, which no key of a file can have for its id or its tenant: whoever
    # calls a tenant "api" does not mean this one.
    option = f"--{name}-key"
    return Key(
        id=option, sha256=digest_of(secret), roles=roles, tenant=option, created_at=utc_now()
    )


async def open_key_ring(config: ServeConfig) -> KeyRing:
    """The keys as they are now. Raises ConfigError if the file of keys cannot be read."""
    ring = KeyRing(fixed_keys(config))
    if config.keys_file is not None:
        ring.replace_others(await asyncio.to_thread(read_keys, config.keys_file))
    return ring


@contextlib.asynccontextmanager
async def following(ring: KeyRing, path: Path | None) -> AsyncIterator[None]:
    """While the block runs, what changes in the file changes in the ring."""
    if path is None:
        yield
        return
    task = asyncio.create_task(_follow(ring, path), name="keys follower")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(ring: KeyRing, path: Path) -> None:
    # The first look reads the file again: it may have changed since the ring was made.
    last: object = None
    while True:
        now = await asyncio.to_thread(_state_of, path)
        if now != last:
            last = now
            await _read_into(ring, path)
        await asyncio.sleep(_LOOK_INTERVAL_S)


async def _read_into(ring: KeyRing, path: Path) -> None:
    try:
        keys = await asyncio.to_thread(read_keys, path)
    except ConfigError as error:
        # Whoever breaks the file must neither lock everybody out nor let anybody in.
        _log.error("the keys stay as they were", reason=error.message)
        return
    ring.replace_others(keys)
    _log.info("read the file of keys", num_keys=len(keys))


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
