"""Which paths on this machine an adapter may be read from, and which names it may have.

Owns: the confinement of a path to the allowed roots, and the form of an adapter's name.
Does not know: what lies at a path.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from motet.core.errors import AdapterError

# No ':' (it separates base and adapter) and no '+' (it joins the adapters of a composition).
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"

_NAME = re.compile(NAME_PATTERN)


def adapter_name_is_valid(name: str) -> bool:
    """Whether a name may be given to an adapter: 1 to 128 of `A-Za-z0-9._/-`, without '..'."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def confine(path: str | Path, roots: Sequence[Path]) -> Path:
    """Resolve every symbolic link of `path` and require the result to lie under a root.

    A relative path is tried under each root, in order; the first that exists is taken. The answer
    for a path outside the roots is the same whether or not there is something at it.

    Returns:
        The resolved absolute path. It exists and lies in a root, or is one.

    Raises:
        AdapterError: "path_not_allowed" outside the roots, "adapter_not_found" if it is missing.
    """
    text = os.fspath(path)
    resolved_roots = [Path(os.path.realpath(root)) for root in roots]
    candidates = _candidates(text, resolved_roots)
    inside = [
        candidate
        for candidate in candidates
        if any(candidate.is_relative_to(root) for root in resolved_roots)
    ]
    for candidate in inside:
        if os.path.exists(candidate):
            return candidate
    if not inside or len(inside) < len(candidates):
        raise AdapterError(
            f"The path {quote(text)} is not under an allowed adapter root, after symbolic links "
            "and '..' are resolved. Move the adapter under one of the server's adapter roots, or "
            "have its directory added to them.",
            code="path_not_allowed",
        )
    raise AdapterError(
        f"There is nothing at {quote(text)} under the allowed adapter roots. "
        "Check the path, and that the upload has finished.",
        code="adapter_not_found",
    )


def quote(text: str, limit: int = 200) -> str:
    """Text from outside, as it may stand in a message: escaped, on one line, and not too long."""
    shown = repr(text)
    return shown if len(shown) <= limit else f"{shown[:limit]}...'"


def _candidates(text: str, roots: Sequence[Path]) -> list[Path]:
    if not text or "\0" in text:
        return []
    # An absolute path replaces the root it is joined to, so it needs to be tried only once.
    joined = [os.path.join(root, text) for root in roots]
    try:
        return [Path(os.path.realpath(each)) for each in dict.fromkeys(joined)]
    except (OSError, ValueError):  # a name that this file system cannot hold
        return []
