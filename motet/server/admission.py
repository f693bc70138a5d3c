"""What a request asks of the engine, and whether the engine could ever do it.

Owns: the limits that depend on the model and the pool, and the sampling parameters of a choice.
Does not know: HTTP, nor how busy the engine is (what fits at all will wait for its turn).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from motet.core.errors import MotetError
from motet.core.messages import EngineReady
from motet.core.sampling import SamplingParams
from motet.server.errors import bad_request
from motet.server.principal import Principal
from motet.server.protocol import GenerationParameters

_SEED_BITS = 63


def require_known_token_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Raises MotetError (400) if a token id is not in the vocabulary."""
    if token_ids and max(token_ids) >= vocab_size:
        raise bad_request(
            f"'{param}' holds token id {max(token_ids)}; the vocabulary of this model ends at "
            f"{vocab_size - 1}.",
            param,
        )


def require_priority(priority: int, principal: Principal) -> None:
    """Raises MotetError (403) if somebody wants to go before everybody else who may not."""
    if priority < 0 and not principal.is_admin:
        raise MotetError(
            f"'priority' is {priority}: below 0, which goes before all usual requests, takes an "
            "admin key. Give 0 or more.",
            code="insufficient_permissions",
            param="priority",
        )


def require_min_tokens(min_tokens: int, max_tokens: int) -> None:
    """Raises MotetError (400) if more tokens are to be generated than may be."""
    if min_tokens > max_tokens:
        raise bad_request(
            f"'min_tokens' is {min_tokens}, but at most {max_tokens} tokens are generated here. "
            "Lower it, or raise max_tokens.",
            "min_tokens",
        )


def admit_max_tokens(
    *,
    num_prompt_tokens: int,
    max_tokens: int | None,
    default_max_tokens: int | None,
    engine: EngineReady,
    num_adapter_pages: int,
    param: str,
) -> int:
    """The number of tokens to generate at most.

    Args:
        max_tokens: what was asked for; it must fit as a whole.
        default_max_tokens: what to take if nothing was asked for; None is all that there is room
            for. Of this, as much is taken as context and pool leave.
        num_adapter_pages: what its adapter takes of the pool beside it.
        param: the field that holds the prompt, for the error.

    Raises:
        MotetError: 400 `context_length_exceeded`, or `pool_too_small` if the sequence and its
            adapter could not be held even by an idle pool.
    """
    num_wanted = 1 if max_tokens is None else max_tokens
    num_context_left = engine.max_model_len - num_prompt_tokens
    if num_wanted > num_context_left:
        raise bad_request(
            f"This model's maximum context length is {engine.max_model_len} tokens, but "
            f"{num_prompt_tokens + num_wanted} were requested ({num_prompt_tokens} in the prompt, "
            f"{'at least 1' if max_tokens is None else max_tokens} to generate). Shorten the "
            "prompt or lower max_tokens.",
            param,
            code="context_length_exceeded",
        )
    num_kv_pages = max(0, engine.num_pages - num_adapter_pages)
    num_pool_left = num_kv_pages * engine.page_size - num_prompt_tokens
    if num_wanted > num_pool_left:
        num_tokens = num_prompt_tokens + num_wanted
        num_needed = -(-num_tokens // engine.page_size) + num_adapter_pages
        raise bad_request(
            f"This request needs {num_needed} pages of memory ({num_tokens} tokens at "
            f"{engine.page_size} a page, and {num_adapter_pages} pages for the adapter), but the "
            f"pool has {engine.num_pages}. Shorten the prompt, lower max_tokens, or start the "
            "server with a larger --pool-memory.",
            param,
            code="pool_too_small",
        )
    if max_tokens is not None:
        return max_tokens
    num_left = min(num_context_left, num_pool_left)
    return num_left if default_max_tokens is None else min(default_max_tokens, num_left)


def choose_seed(params: GenerationParameters) -> int:
    """The seed that the request gave, or a fresh one."""
    return secrets.randbits(_SEED_BITS) if params.seed is None else params.seed


def sampling_params(
    params: GenerationParameters,
    *,
    max_tokens: int,
    seed: int,
    choice: int,
    eos_token_ids: Sequence[int],
    grammar: str | None,
) -> SamplingParams:
    """The sampling parameters of choice number `choice` of a prompt.

    Choices differ in their seed alone; choice 0 is what a request for one choice gets.
    """
    stop_token_ids = set(params.stop_token_ids)
    if not params.ignore_eos:
        stop_token_ids.update(eos_token_ids)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        seed=(seed + choice) % (1 << _SEED_BITS),
        stop_token_ids=tuple(sorted(stop_token_ids)),
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=tuple(sorted(params.logit_bias.items())),
        min_tokens=params.min_tokens,
        num_logprobs=params.num_logprobs,
        num_prompt_logprobs=params.num_prompt_logprobs,
        grammar=grammar,
    )
