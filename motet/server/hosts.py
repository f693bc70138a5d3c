"""By which names a server may be called: the check of the Host header.

Owns: this rule.
Does not know: keys, except whether there are any.

A browser sends whatever name a page used. Without this check a web page could have its own name
resolve to this machine, and reach a server that asks for no key.
"""

from __future__ import annotations

from collections.abc import Collection

from motet.core.errors import MotetError
from motet.server.config import is_loopback


def require_allowed_host(host: str, allowed: Collection[str], *, has_keys: bool) -> None:
    """Check the value of a Host header.

    Args:
        host: a header that is missing or empty passes: no browser leaves it out.
        allowed: names, in lower case and without a port. This machine's own are always allowed;
            without any others, keys allow all names.

    Raises:
        MotetError: 403 `host_not_allowed`.
    """
    if not allowed and has_keys:
        return
    name = _without_port(host)
    if not host or is_loopback(name) or name.lower() in allowed:
        return
    if allowed:
        raise MotetError(
            "This server does not answer to the name in the Host header. It is started with "
            "--allowed-host for each name that it has.",
            code="host_not_allowed",
        )
    raise MotetError(
        "This server has no API key, so it answers only requests that are addressed to localhost "
        "or a loopback address. Start it with --api-key or --allowed-host to use other names.",
        code="host_not_allowed",
    )


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
