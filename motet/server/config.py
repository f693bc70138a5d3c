"""Every option of `motet serve`, checked once.

Owns: `ServeConfig`, the rule that an open server stays on this machine, and parsing of sizes.
Does not know: the command line (`cli.py`), nor what the engine does with its own options.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError

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
        adapter_roots: directories below which the load endpoint may read.
        api_key: opens /v1/* and /metrics, and the admin endpoints if there is no `admin_key`.
        admin_key: opens everything.
        share_prefix_cache: requests with different keys share cached prefixes, which tells by its
            speed what others have asked.
        drain_timeout_s: how long running requests may go on after SIGTERM.
        engine_timeout_s: an engine that answers nothing for so long is killed and started again.
        otlp_endpoint: URL of an OpenTelemetry collector, which gets a span of each generation
            request.
        max_body_bytes: larger requests are refused.

    Raises:
        ConfigError: an address that others can reach without any key, or an impossible port.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    host: str = "127.0.0.1"
    port: int = 8000
    adapters: tuple[tuple[str, Path], ...] = ()
    adapter_dir: Path | None = None
    adapter_roots: tuple[Path, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    share_prefix_cache: bool = False
    drain_timeout_s: int = 30
    engine_timeout_s: float = 120.0
    otlp_endpoint: str | None = None
    max_body_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(
                f"--port is {self.port}; give a number from 0 (any free port) to 65535.",
                param="port",
            )
        for option, key in (("api_key", self.api_key), ("admin_key", self.admin_key)):
            if key is not None and not key.strip():
                raise ConfigError(f"The {option} is empty; give a key or leave it out.")
        if not self.has_keys and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines, and no key is set. "
                "Set --api-key (and --admin-key for managing adapters), or use --host 127.0.0.1.",
                param="host",
            )

    @property
    def has_keys(self) -> bool:
        return self.api_key is not None or self.admin_key is not None

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        """Directories below which the load endpoint may read."""
        own = () if self.adapter_dir is None else (self.adapter_dir,)
        return (*self.adapter_roots, *own)


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
