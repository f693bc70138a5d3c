"""Every option of `motet serve`, checked once.

Owns: `ServeConfig`, the rule that an open server stays on this machine, and parsing of sizes.
Does not know: the command line (`cli.py`), nor what the engine does with its own options.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError
from motet.scheduler.policies.configured import configured_policy

_UNIX = "unix:"

_UNIT_BYTES = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Options of the API process; those of the engine are in `engine`.

    Attributes:
        adapters: (name, directory) pairs to load at start; one that fails ends the start.
        adapter_dir: every adapter in it may be used under its folder's name, and is loaded when
            it first is; also those that come into it later. A name in `adapters` goes first.
        watch_adapter_dir: follow what changes in `adapter_dir`.
        adapter_roots: directories below which the load endpoints may read.
        hub_orgs: organisations on the Hub whose repositories an admin may load adapters from.
        buckets: "s3://bucket/prefix" below which an admin may load adapters from.
        state_dir: where the registry of adapters is kept over restarts, with what was downloaded;
            None keeps nothing.
        api_key: opens /v1/* and /metrics, and the admin endpoints if there is no `admin_key`.
        admin_key: opens everything.
        share_prefix_cache: requests with different keys share cached prefixes, which tells by its
            speed what others have asked.
        keys_file: more keys, followed as the file changes; see `key_file.py`.
        allowed_hosts: names in the Host header that are answered; empty is all names with keys,
            and this machine's own without.
        admin_host: with `admin_port`, where the admin routes have a listener of their own;
            `unix:PATH` is a socket in the file system, and takes no port.
        max_queued: sequences of one tenant that may wait for their first token at a time, and half
            of all; None is four batches.
        max_request_time_s: from a request's arrival to its end at most.
        max_queue_time_s: from a request's arrival to its first token at most.
        lenient_parameters: unknown request parameters are ignored, rather than refused.
        drain_timeout_s: how long running requests may go on after SIGTERM.
        engine_timeout_s: an engine that answers nothing for so long is killed and started again.
        otlp_endpoint: URL of an OpenTelemetry collector, which gets a span of each generation
            request.
        max_body_bytes: larger requests are refused.
        sse_keep_alive_s: how long a stream may be silent before a comment is sent; None for ever.

    Raises:
        ConfigError: an address that others can reach without any key, an impossible port, a
            policy that there is not, or options that do not fit together.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    host: str = "127.0.0.1"
    port: int = 8000
    adapters: tuple[tuple[str, Path], ...] = ()
    adapter_dir: Path | None = None
    watch_adapter_dir: bool = False
    adapter_roots: tuple[Path, ...] = ()
    hub_orgs: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()
    state_dir: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    keys_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    admin_host: str | None = None
    admin_port: int | None = None
    share_prefix_cache: bool = False
    max_queued: int | None = None
    max_request_time_s: float = 3600.0
    max_queue_time_s: float = 600.0
    lenient_parameters: bool = False
    drain_timeout_s: int = 30
    engine_timeout_s: float = 120.0
    otlp_endpoint: str | None = None
    max_body_bytes: int = 4 << 20
    sse_keep_alive_s: float | None = 15.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(
                f"--port is {self.port}; give a number from 0 (any free port) to 65535.",
                param="port",
            )
        self._require_positive()
        configured_policy(self.engine)  # what is wrong with it is said before a model is loaded
        self._require_what_sources_need()
        for option, key in (("api_key", self.api_key), ("admin_key", self.admin_key)):
            if key is not None and not key.strip():
                raise ConfigError(f"The {option} is empty; give a key or leave it out.")
        self._require_keys_in_public("host", self.host)
        if isinstance(admin := self.admin_address, TcpAddress):
            self._require_keys_in_public("admin_host", admin.host)

    def _require_what_sources_need(self) -> None:
        if self.watch_adapter_dir and self.adapter_dir is None:
            raise ConfigError(
                "--watch-adapter-dir needs --adapter-dir, the directory to watch.",
                param="watch_adapter_dir",
            )
        if (self.hub_orgs or self.buckets) and self.state_dir is None:
            raise ConfigError(
                "--allow-hub-org and --allow-bucket need --state-dir, to keep what is downloaded.",
                param="state_dir",
            )
        for bucket in self.buckets:
            if not bucket.removeprefix("s3://") or not bucket.startswith("s3://"):
                raise ConfigError(
                    f"--allow-bucket {bucket!r} should be s3://BUCKET or s3://BUCKET/PREFIX.",
                    param="buckets",
                )

    def _require_positive(self) -> None:
        for option, value in (
            ("max_queued", self.max_queued),
            ("max_request_time", self.max_request_time_s),
            ("max_queue_time", self.max_queue_time_s),
            ("ttft_slo", self.engine.ttft_slo_s),
            ("cluster_adapters", self.engine.num_cluster_adapters),
        ):
            if value is not None and not 0 < value < math.inf:
                name = option.replace("_", "-")
                raise ConfigError(f"--{name} is {value}; give more than 0.", param=option)

    def _require_keys_in_public(self, option: str, host: str) -> None:
        if self.has_keys or is_loopback(host):
            return
        raise ConfigError(
            f"--{option.replace('_', '-')} {host} can be reached from other machines, and no key "
            "is set. Set --api-key (and --admin-key for managing adapters) or --keys-file, or use "
            "127.0.0.1.",
            param=option,
        )

    @property
    def has_keys(self) -> bool:
        """Whether requests need one; a file of keys may be empty, and then nobody gets in."""
        return any(each is not None for each in (self.api_key, self.admin_key, self.keys_file))

    @property
    def admin_address(self) -> TcpAddress | UnixAddress | None:
        """Where the admin routes are; None if they are with all others. Raises ConfigError."""
        return parse_admin_address(self.admin_host, self.admin_port)

    @property
    def most_queued(self) -> int:
        """What `max_queued` comes to."""
        return 4 * self.engine.max_running if self.max_queued is None else self.max_queued

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        """Directories below which the load endpoint may read."""
        own = () if self.adapter_dir is None else (self.adapter_dir,)
        return (*self.adapter_roots, *own)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port to listen on; port 0 is any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system, which only its owner may use."""

    path: Path


def parse_admin_address(host: str | None, port: int | None) -> TcpAddress | UnixAddress | None:
    """What --admin-host and --admin-port say together; None if neither is given.

    Raises:
        ConfigError: they do not fit together.
    """
    if host is not None and host.startswith(_UNIX):
        path = host.removeprefix(_UNIX)
        if not path or port is not None:
            raise ConfigError(
                "--admin-host unix:PATH needs a path, and no --admin-port.", param="admin_host"
            )
        return UnixAddress(Path(path))
    if port is None:
        if host is not None:
            raise ConfigError(f"--admin-host {host} needs --admin-port too.", param="admin_port")
        return None
    if not 0 <= port <= 65535:
        raise ConfigError(
            f"--admin-port is {port}; give a number from 0 (any free port) to 65535.",
            param="admin_port",
        )
    return TcpAddress("127.0.0.1" if host is None else host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: a loopback address, or the name localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_size_bytes(text: str) -> int:
    """Bytes of a size such as "2GiB", "512 MiB" or "1.5GB". Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNIT_BYTES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(
            f"{text!r} is not a size; write a number and a unit, such as 2GiB, 512MiB or 3GB."
        )
    size = int(float(match[1]) * unit)
    if size <= 0:
        raise ConfigError(f"{text!r} is no size at all; give more than zero bytes.")
    return size
