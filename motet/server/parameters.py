"""What happens to request parameters that do nothing here, or that cannot be honoured yet.

Owns: the lists of ignored and unsupported parameters, and the check for misspelt ones.
Does not know: the types and bounds of parameters that do work (`protocol.py`).

No parameter is dropped silently if it would have changed the answer: a client that asks for
constrained output and gets free text has been lied to.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

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
        "parallel_tool_calls",
    }
)

# Real parameters that would change the answer, each with the values at which they would not.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "top_logprobs": (0,),
    "min_tokens": (0,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "add_generation_prompt": (True,),
    "add_special_tokens": (),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "cache_salt": (),
    "priority": (0,),
    "length_penalty": (1, 1.0),
    "use_beam_search": (False,),
    "logits_processors": ([],),
    "bad_words": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
_UNSUPPORTED_IN_COMPLETIONS = {"logprobs": (), "echo": (False,), "suffix": ("",)}
_UNSUPPORTED_IN_CHAT = {"logprobs": (False,), "echo": (False,)}


def drop_idle_completion_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of /v1/completions without what does nothing. Raises as `_drop_idle`."""
    num_choices = body.get("n")
    # Choosing the best of as many as are returned chooses nothing.
    best_of = (1 if num_choices is None else num_choices,)
    return _drop_idle(body, _UNSUPPORTED | _UNSUPPORTED_IN_COMPLETIONS | {"best_of": best_of})


def drop_idle_chat_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of /v1/chat/completions without what does nothing. Raises as `_drop_idle`."""
    return _drop_idle(body, _UNSUPPORTED | _UNSUPPORTED_IN_CHAT)


def suggestion(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or nothing if no known name is close."""
    close = difflib.get_close_matches(name, [*known, *_UNSUPPORTED, *_IGNORED], n=1, cutoff=0.7)
    return f" Did you mean '{close[0]}'?" if close else ""


def _drop_idle(
    body: Mapping[str, Any], unsupported: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """Without nulls, ignored parameters, and unsupported ones at a value that does nothing.

    Raises:
        MotetError: code `unsupported_parameter`, for one at any other value.
    """
    kept: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _IGNORED:
            continue
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
