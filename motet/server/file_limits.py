"""How many files and connections this process may have open.

Owns: the limit of the operating system, and the share of it that connections may take.

When files run out, nothing can be accepted, loaded or logged; so connections get what is left
after a reserve, and a process that may raise its own limit does.
"""

from __future__ import annotations

import resource

_WANTED_FILES = 65_536
_RESERVED_FILES = 128  # adapters being read, the engine's socket, logs


def raise_file_limit() -> None:
    """Allow this process and the engine as many open files as it may and could use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def max_connections() -> int:
    """Connections that a listener may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = _WANTED_FILES
    return max(soft // 2, soft - _RESERVED_FILES)
