"""How much one request may ask for altogether, whatever its single fields say.

Owns: the caps on sequences, on tokens to generate and on log probabilities to report.
Does not know: the context and the pool (`admission.py`), nor limits per key.
"""

from __future__ import annotations

from collections.abc import Sequence

from motet.server.errors import bad_request
from motet.server.protocol import GenerationParameters

MAX_SEQUENCES = 128
MAX_TOTAL_TOKENS = 1 << 20
MAX_PROMPT_LOGPROBS = 1 << 18  # some 15 MB of JSON, which is written in one go


def require_within_budget(
    params: GenerationParameters, prompts: Sequence[Sequence[int]], max_tokens: int | None
) -> None:
    """Raises MotetError (400) if a request is too large as a whole.

    Args:
        max_tokens: tokens to generate at most in each sequence; None if it was not said.
    """
    num_sequences = len(prompts) * params.num_candidates
    if num_sequences > MAX_SEQUENCES:
        raise bad_request(
            f"{len(prompts)} prompts with {params.num_candidates} choices each are "
            f"{num_sequences} sequences; one request may have {MAX_SEQUENCES}. Send fewer prompts "
            "or lower n.",
            "n",
        )
    if num_sequences * (max_tokens or 0) > MAX_TOTAL_TOKENS:
        raise bad_request(
            f"{num_sequences} sequences of up to {max_tokens} tokens are "
            f"{num_sequences * (max_tokens or 0)} tokens; one request may ask for "
            f"{MAX_TOTAL_TOKENS}. Lower max_tokens or n.",
            "max_tokens",
        )
    if params.num_prompt_logprobs is None:
        return
    num_prompt_tokens = sum(map(len, prompts)) * params.num_candidates
    num_reported = num_prompt_tokens * (params.num_prompt_logprobs + 1)
    if num_reported > MAX_PROMPT_LOGPROBS:
        raise bad_request(
            f"{num_reported} log probabilities of prompt tokens were asked for "
            f"({num_prompt_tokens} tokens, {params.num_prompt_logprobs + 1} each); one request "
            f"may ask for {MAX_PROMPT_LOGPROBS}. Ask for fewer, or send fewer prompts at once.",
            "logprobs" if params.prompt_logprobs is None else "prompt_logprobs",
        )


def default_share(num_sequences: int, num_prompt_tokens: int, most_tokens: int | None) -> int:
    """Tokens that each sequence may generate if the request does not say how many; at least 1.

    Args:
        most_tokens: that the request's key may ever use at once, prompts included; None is any
            number. Without this such a request could never get in.
    """
    left = MAX_TOTAL_TOKENS
    if most_tokens is not None:
        left = min(left, most_tokens - num_prompt_tokens)
    return max(1, left // num_sequences)
