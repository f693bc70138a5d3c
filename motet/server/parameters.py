"""What happens to request parameters that do nothing here, or that cannot be honoured.

Owns: the lists of ignored and unsupported parameters, the check for misspelt ones, and the header
that says what was ignored.
Does not know: the types and bounds of parameters that do work (`protocol.py`).

No parameter is dropped silently if it would have changed the answer: a client that asks for
constrained output and gets free text has been lied to.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from motet.core.errors import MotetError
from motet.server.errors import bad_request

# They have no effect on the answer, so ignoring them is honest.
_IGNORED = frozenset(
    {
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "verbosity",
    }
)

# Real parameters that would change the answer, each with the values at which they would not.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "service_tier": ("auto", "default"),
    "store": (False,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "spaces_between_special_tokens": (True,),
    "chat_template": (),
    "length_penalty": (1, 1.0),
    "use_beam_search": (False,),
    "logits_processors": ([],),
    "bad_words": ([],),
}
# Old names of what does work here, vLLM's and OpenAI's, and their new ones.
_RENAMED = {
    f"guided_{name}": f"structured_outputs.{name}"
    for name in ("json", "regex", "choice", "grammar")
} | {"functions": "tools", "function_call": "tool_choice"}
_UNSUPPORTED_IN_COMPLETIONS: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}
_UNSUPPORTED_IN_CHAT: dict[str, tuple[Any, ...]] = {"echo": (False,)}

IGNORED_HEADER = "x-ignored-params"
# A header has to get through every proxy on the way, whatever was sent.
_MAX_NAMES_TOLD = 16
_MAX_NAME_CHARS = 32


def ignored_parameters(
    body: Mapping[str, Any], known: Iterable[str], *, is_lenient: bool
) -> list[str]:
    """Names of what in `body` is not going to be read.

    Args:
        known: the fields of all endpoints; a field of another endpoint is never ignored.
        is_lenient: unknown parameters are ignored too, rather than refused. Those that are known
            and unsupported never are.
    """
    names = [name for name, value in body.items() if value is not None]
    if not is_lenient:
        return [name for name in names if name in _IGNORED]
    unsupported = {*_UNSUPPORTED, *_UNSUPPORTED_IN_COMPLETIONS, *_UNSUPPORTED_IN_CHAT}
    read = {*known, *unsupported, *_RENAMED}
    return [name for name in names if name not in read]


def without(body: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`body` without the fields of these names."""
    left_out = frozenset(names)
    return {name: value for name, value in body.items() if name not in left_out}


def tell_ignored(response: Response, names: Sequence[str]) -> None:
    """Name what was ignored in the response's headers, as far as headers can hold it."""
    if names:
        told = [quote(name[:_MAX_NAME_CHARS]) for name in names[:_MAX_NAMES_TOLD]]
        response.headers[IGNORED_HEADER] = ", ".join(told)


def drop_idle_completion_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of /v1/completions without what does nothing. Raises as `_drop_idle`."""
    return _drop_idle(body, _UNSUPPORTED | _UNSUPPORTED_IN_COMPLETIONS)


def drop_idle_chat_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of /v1/chat/completions without what does nothing. Raises as `_drop_idle`."""
    return _drop_idle(body, _UNSUPPORTED | _UNSUPPORTED_IN_CHAT)


def idle_completion_parameters() -> dict[str, tuple[Any, ...] | None]:
    """What does nothing in /v1/completions: the values at which it does nothing; None is any."""
    return dict.fromkeys(_IGNORED) | _UNSUPPORTED | _UNSUPPORTED_IN_COMPLETIONS


def idle_chat_parameters() -> dict[str, tuple[Any, ...] | None]:
    """The same of /v1/chat/completions."""
    return dict.fromkeys(_IGNORED) | _UNSUPPORTED | _UNSUPPORTED_IN_CHAT


def suggestion(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing if no known name is close."""
    close = difflib.get_close_matches(name, [*known, *_UNSUPPORTED, *_IGNORED], n=1, cutoff=0.7)
    return f" Did you mean '{close[0]}'?" if close else ""


def _drop_idle(
    body: Mapping[str, Any], unsupported: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """Without nulls, ignored parameters, and unsupported ones at a value that does nothing.

    Raises:
        MotetError: code `unsupported_parameter`, for one at any other value, or an old name.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _IGNORED:
            continue
        if name in _RENAMED:
            raise bad_request(
                f"'{name}' is an old name; use '{_RENAMED[name]}'.",
                name,
                code="unsupported_parameter",
            )
        if name not in unsupported:
            kept[name] = value
        elif not any(_is_same(value, neutral) for neutral in unsupported[name]):
            raise _unsupported(name, unsupported[name])
    return kept


def _is_same(value: Any, other: Any) -> bool:
    # In Python True == 1; in JSON they are different things.
    return type(value) is type(other) and bool(value == other)


def _unsupported(name: str, neutral: tuple[Any, ...]) -> MotetError:
    allowed = f" (or set it to {neutral[0]!r})" if neutral else ""
    return bad_request(
        f"'{name}' is not supported by this server, and ignoring it would change the answer. "
        f"Leave it out{allowed}.",
        name,
        code="unsupported_parameter",
    )
