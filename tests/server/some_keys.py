"""Keys and files of them, for tests that need some."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from motet.server.key_file import edit_keys
from motet.server.keys import Key, digest_of
from motet.server.principal import Role

CREATED = datetime(2026, 1, 2, tzinfo=UTC)


def some_key(key_id: str = "alice", secret: str = "secret", **fields: Any) -> Key:
    values: dict[str, Any] = {"roles": [Role.INFERENCE], "tenant": "acme", "created_at": CREATED}
    return Key(id=key_id, sha256=digest_of(secret), **{**values, **fields})


def write_keys(path: Path, *keys: Key) -> None:
    edit_keys(path, lambda _: list(keys))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}
