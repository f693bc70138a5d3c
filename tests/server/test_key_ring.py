"""Keys that open a running server, and a file that changes under it."""

import asyncio
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog.testing

from motet.server import key_ring
from motet.server.config import ServeConfig
from motet.server.key_ring import KeyRing, fixed_keys, following, open_key_ring
from tests.server.some_keys import some_key, write_keys

ALICE, BOB = some_key("alice", "alice-key"), some_key("bob", "bob-key")


def test_a_key_is_found_by_itself_alone() -> None:
    ring = KeyRing([ALICE])
    ring.replace_others([BOB])
    assert ring.find("alice-key") == ALICE
    assert ring.find("bob-key") == BOB
    for other in ("", "alice", "ALICE-KEY", "alice-key ", ALICE.sha256):
        assert ring.find(other) is None
    ring.replace_others([])
    assert ring.find("bob-key") is None
    assert ring.find("alice-key") == ALICE


def test_the_last_word_is_a_comparison_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def never_equal(left: str, right: str) -> bool:
        compared.append((left, right))
        return False

    ring = KeyRing([ALICE])
    assert key_ring.hmac is hmac
    monkeypatch.setattr(hmac, "compare_digest", never_equal)
    assert ring.find("alice-key") is None
    assert compared == [(ALICE.sha256, ALICE.sha256)]  # of digests: never of the key itself


def test_expiry_is_by_the_clock_given() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ring = KeyRing([], now=lambda: now)
    assert not ring.has_expired(some_key(expires_at=now + timedelta(seconds=1)))
    assert ring.has_expired(some_key(expires_at=now))


def test_without_an_admin_key_the_api_key_is_one() -> None:
    [key] = fixed_keys(ServeConfig(api_key="a"))
    assert key.principal.is_admin
    api, admin = fixed_keys(ServeConfig(api_key="a", admin_key="b"))
    assert (api.principal.is_admin, admin.principal.is_admin) == (False, True)
    assert api.tenant != admin.tenant
    assert fixed_keys(ServeConfig()) == []


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_broken_file_changes_nothing_and_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, ALICE)

    async def work() -> None:
        ring = await open_key_ring(ServeConfig(keys_file=path))
        assert ring.find("alice-key") == ALICE
        async with following(ring, path):
            path.write_text("{")
            await until(lambda: any(log["log_level"] == "error" for log in logs))
            assert ring.find("alice-key") == ALICE
            path.unlink()
            await until(lambda: sum(log["log_level"] == "error" for log in logs) == 2)
            assert ring.find("alice-key") == ALICE
            write_keys(path, BOB)
            await until(lambda: ring.find("bob-key") is not None)
            assert ring.find("alice-key") is None

    with structlog.testing.capture_logs() as logs:
        asyncio.run(work())
    assert "alice-key" not in str(logs)


def test_what_changed_before_following_began_counts(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, ALICE)

    async def work() -> None:
        ring = await open_key_ring(ServeConfig(keys_file=path))
        write_keys(path, BOB)
        async with following(ring, path):
            await until(lambda: ring.find("bob-key") is not None)

    asyncio.run(work())
