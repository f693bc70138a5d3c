"""Keys, the file that they are in, and who changes it."""

import json
import re
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.core.errors import ConfigError
from motet.server.key_file import edit_keys, read_keys
from motet.server.keys import Key, KeyLimits, digest_of, new_secret
from motet.server.principal import ANYONE, Principal, Role
from tests.server.some_keys import CREATED, some_key, write_keys
from tests.server.test_cli import motet


def may_use(patterns: list[str] | None, adapter: str, *roles: Role) -> bool:
    return Principal("id", "t", frozenset(roles or [Role.INFERENCE]), patterns).may_use(adapter)


def test_a_key_is_long_and_random_and_says_what_it_is() -> None:
    keys = {new_secret() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"mk-[A-Za-z0-9_-]{43}", key) for key in keys)  # 32 bytes


@pytest.mark.parametrize(
    ("patterns", "adapter", "expected"),
    [
        (None, "red", True),
        ([], "red", False),
        (["red"], "red", True),
        (["red"], "Red", False),
        (["red"], "red2", False),
        (["red"], "xred", False),
        (["red*"], "red/blue", True),
        (["acme/*"], "acme/x/y", True),
        (["acme/*"], "acme", False),
        (["acme/*"], "acmex/y", False),
        (["r?d"], "rxd", True),
        (["r?d"], "rd", False),
        (["a.b"], "axb", False),
        (["a[bc]d"], "abd", False),
        (["a[bc]d"], "a[bc]d", True),
        (["[!a]"], "b", False),
        (["blue", "red"], "red", True),
        (["*"], "anything", True),
        (["red\n*"], "red", False),
    ],
)
def test_patterns_match_whole_names_and_know_two_wildcards(
    patterns: list[str] | None, adapter: str, expected: bool
) -> None:
    assert may_use(patterns, adapter) is expected


def test_an_admin_may_use_everything() -> None:
    assert may_use([], "red", Role.ADMIN)
    assert ANYONE.may_use("red")


def test_a_pattern_of_many_wildcards_takes_no_time() -> None:
    """It would take for ever if each wildcard were tried at each place."""
    assert not may_use(["*a" * 60 + "b"], "a" * 128)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
PATTERNS = st.from_regex(r"[A-Za-z0-9._/*?-]{1,128}", fullmatch=True)
COUNTS = st.none() | st.integers(1, 10**12)
TIMES = st.datetimes(timezones=st.just(UTC))
KEYS = st.builds(
    Key,
    id=NAMES,
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    roles=st.lists(st.sampled_from(Role), min_size=1, unique=True),
    tenant=NAMES,
    adapters=st.none() | st.lists(PATTERNS, max_size=3),
    limits=st.builds(
        KeyLimits, requests_per_minute=COUNTS, tokens_per_minute=COUNTS, max_concurrent=COUNTS
    ),
    weight=st.floats(0.01, 100),
    created_at=TIMES,
    expires_at=st.none() | TIMES,
)


@settings(max_examples=25)  # each is synced to the disk
@given(keys=st.lists(KEYS, max_size=4, unique_by=(lambda key: key.id, lambda key: key.sha256)))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, keys: list[Key]) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path, *keys)
    assert read_keys(path) == keys


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{"version": 1, "keys": []}')
    path.chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        read_keys(path)
    assert "chmod" in logs[0]["event"]
    write_keys(path, some_key())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with structlog.testing.capture_logs() as logs:
        read_keys(path)
    assert logs == []
    assert [each.name for each in tmp_path.iterdir()] == ["keys.json"]


RECORD = json.loads(
    '{"id": "a", "sha256": "' + "0" * 64 + '", "roles": ["inference"], "tenant": "t", '
    '"created_at": "2026-01-02T00:00:00Z"}'
)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"roles": []},
        {"roles": ["root"]},
        {"tenant": ""},
        {"id": "a b"},
        {"id": "x" * 65},
        {"created_at": "2026-01-02T00:00:00"},  # of which time zone?
        {"expires_at": "tomorrow"},
        {"adapters": "red"},
        {"adapters": ["a[b]"]},
        {"limits": {"requests_per_minute": 0}},
        {"limits": {"requests_per_hour": 1}},
        *({"weight": each} for each in (0, 101, -1, None, True, "2", float("inf"), float("nan"))),
        {"secret": "x"},
    ],
)
def test_what_is_not_a_key_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"version": 1, "keys": [RECORD]}))
    assert len(read_keys(path)) == 1
    path.write_text(json.dumps({"version": 1, "keys": [RECORD | change]}))
    with pytest.raises(ConfigError, match="not a file of keys"):
        read_keys(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2, "keys": []}', b"\xff"])
def test_what_is_not_a_file_of_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a file of keys"):
        read_keys(path)
    with pytest.raises(ConfigError, match="not a file of keys"):
        write_keys(path, some_key())
    assert path.read_bytes() == content


def test_keys_are_distinct(tmp_path: Path) -> None:
    for what, keys in (
        ("id", [some_key("a", "x"), some_key("a", "y")]),
        ("digest", [some_key("a"), some_key("b")]),
    ):
        path = tmp_path / what
        write_keys(path, *keys)
        with pytest.raises(ConfigError, match=f"two keys of the {what}"):
            read_keys(path)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="motet keys create"):
        read_keys(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_keys(tmp_path / "none" / "keys.json", some_key())


def test_no_change_is_lost_and_no_reader_sees_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path)

    def add(number: int) -> None:
        for each in range(10):
            key = some_key(f"k{number}-{each}", f"{number}-{each}")
            edit_keys(path, lambda keys, key=key: [*keys, key])

    writers = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    num_keys = 0
    while any(writer.is_alive() for writer in writers):
        num_now = len(read_keys(path))
        assert num_now >= num_keys
        num_keys = num_now
    assert len(read_keys(path)) == 40


def test_expiry_is_at_its_time_and_after() -> None:
    key = some_key(expires_at=CREATED)
    assert not key.has_expired(CREATED - timedelta(microseconds=1))
    assert key.has_expired(CREATED)
    assert not some_key().has_expired(datetime.max.replace(tzinfo=UTC))


def test_a_created_key_is_shown_once_and_the_file_has_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    options = ["--keys-file", str(path)]
    status, output = motet(
        *("keys", "create", "alice", "--tenant", "acme", "--adapter", "acme/*"),
        *("--adapter", "red", "--requests-per-minute", "60", "--expires-in", "90d"),
        *("--weight", "2.5", *options),
    )
    assert status == 0
    secret = output.strip()
    [key] = read_keys(path)
    assert key.sha256 == digest_of(secret)
    assert (key.id, key.tenant, key.adapters) == ("alice", "acme", ["acme/*", "red"])
    assert key.limits == KeyLimits(requests_per_minute=60)
    assert key.expires_at == key.created_at + timedelta(days=90)
    assert key.weight == key.principal.weight == 2.5
    assert not key.principal.is_admin
    assert secret not in path.read_text()

    assert motet("keys", "create", "root", "--admin", *options)[0] == 0
    root = read_keys(path)[1]
    assert root.principal.is_admin
    assert (root.tenant, root.adapters, root.expires_at) == ("root", None, None)
    assert root.principal.weight == 1

    monkeypatch.setenv("COLUMNS", "200")
    status, output = motet("keys", "list", *options)
    assert status == 0
    for text in ("alice", "acme/*, red", "60 requests/min", "2.5", "root", "never"):
        assert text in output
    assert key.sha256 not in output

    assert motet("keys", "revoke", "alice", *options)[0] == 0
    assert [each.id for each in read_keys(path)] == ["root"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "alice"), "already"),
        (("create", "a b"), "cannot be as asked for"),
        (("create", "bob", "--adapter", "a[b]"), "cannot be as asked for"),
        (("create", "bob", "--tenant", ""), "cannot be as asked for"),
        *(
            (("create", "bob", "--weight", each), "weight")
            for each in ("0", "-1", "inf", "nan", "1e3")
        ),
        (("create", "bob", "--expires-in", "0d"), "90d"),
        (("create", "bob", "--expires-in", "soon"), "90d"),
        (("revoke", "bob"), "there are: alice"),
    ],
)
def test_commands_that_cannot_be_done_change_nothing(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, some_key("alice"))
    before = path.read_bytes()
    status, output = motet("keys", *arguments, "--keys-file", str(path))
    assert status == 1
    assert message in output
    assert path.read_bytes() == before
