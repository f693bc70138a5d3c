"""Parameters of /v1/responses that do nothing here, or that cannot be honoured, and why.

Owns: these two lists, and what a parameter of the older endpoints is called in this one.
Does not know: the types of the parameters that do work (`protocol.py`).

OpenAI's endpoint keeps what it answers and runs tools of its own. This one does neither, and
says so rather than answering without what was asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from motet.core.errors import MotetError
from motet.server.errors import bad_request
from motet.server.parsing import MAX_PARAM_CHARS
from motet.server.protocol import ALL_PARAMETERS

# They have no effect on the answer.
_IGNORED = frozenset(
    {
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "max_tool_calls",  # counts calls of built-in tools, and there are none
    }
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a parameter cannot be honoured, and the values at which it asks for nothing."""

    reason: str
    neutral: tuple[Any, ...] = ()


_STATELESS = "This server keeps no responses: send the whole conversation in 'input'."
_REFUSED = {
    "store": _Refusal("This server keeps no responses.", (False,)),
    "previous_response_id": _Refusal(_STATELESS),
    "conversation": _Refusal(_STATELESS),
    "context_management": _Refusal(_STATELESS, ([],)),
    "prompt": _Refusal("This server keeps no prompts: send its text in 'instructions'."),
    "background": _Refusal(
        "A response is computed while its client waits: use 'stream' to see it come.", (False,)
    ),
    "background_options": _Refusal("A response is computed while its client waits."),
    # There is no reasoning, so none is left out of an answer that was asked to include it.
    "include": _Refusal(
        "There is nothing that could be added to a response.",
        ([], ["reasoning.encrypted_content"]),
    ),
    "top_logprobs": _Refusal("Use /v1/chat/completions for log probabilities.", (0,)),
    "truncation": _Refusal("An input that is too long is refused, never cut.", ("disabled",)),
    "service_tier": _Refusal("There is only one tier.", ("auto", "default")),
    "moderation": _Refusal("Nothing is moderated here."),
    "image": _Refusal("This is a text model."),
    "access_programs": _Refusal("There are none here."),
}
# What clients of /v1/chat/completions look for.
_NEW_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}


def ignored_response_parameters(
    body: Mapping[str, Any], working: Collection[str], *, is_lenient: bool
) -> list[str]:
    """Names of what in `body` is not going to be read.

    Args:
        working: the names of those that do something.
        is_lenient: unknown parameters are ignored too, rather than refused; those that mean
            something, here or to the older endpoints, never are.
    """
    names = [name for name, value in body.items() if value is not None]
    if not is_lenient:
        return [name for name in names if name in _IGNORED]
    read = {*working, *_REFUSED, *_NEW_NAMES, *ALL_PARAMETERS}
    return [name for name in names if name not in read]


def drop_idle_response_parameters(
    body: Mapping[str, Any], working: Collection[str]
) -> dict[str, Any]:
    """The body of /v1/responses without nulls, and without what does nothing.

    Args:
        working: the names of those that do something.

    Raises:
        MotetError: 400 `unsupported_parameter` for what cannot be honoured, `unknown_parameter`
            for what there is not.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _IGNORED:
            continue
        if name in working:
            kept[name] = value
        elif name not in _REFUSED:
            raise _unknown(name, working)
        elif not any(
            type(value) is type(each) and value == each for each in _REFUSED[name].neutral
        ):
            raise _unsupported(name)
    return kept


def idle_response_parameters() -> dict[str, tuple[Any, ...] | None]:
    """What does nothing: the values at which it does nothing; None is any."""
    refused = {name: refusal.neutral for name, refusal in _REFUSED.items()}
    return dict.fromkeys(_IGNORED) | refused


def _unknown(name: str, working: Collection[str]) -> MotetError:
    name = name[:MAX_PARAM_CHARS]
    close = difflib.get_close_matches(name, [*working, *_REFUSED, *_IGNORED], n=1, cutoff=0.7)
    meant = _NEW_NAMES.get(name) or (close[0] if close else None)
    hint = "" if meant is None else f" Did you mean '{meant}'?"
    return bad_request(f"Unknown parameter: '{name}'.{hint}", name, code="unknown_parameter")


def _unsupported(name: str) -> MotetError:
    reason, neutral = _REFUSED[name].reason, _REFUSED[name].neutral
    allowed = f" (or set it to {neutral[0]!r})" if neutral else ""
    return bad_request(
        f"'{name}' is not supported. {reason} Leave it out{allowed}.",
        name,
        code="unsupported_parameter",
    )
