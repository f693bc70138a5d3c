"""How the tokens of one request are chosen.

Owns: `SamplingParams`, the resolved form that the engine reads.
Does not know: the HTTP fields it came from, their bounds and their messages (`server/protocol.py`).
"""

import msgspec

# Below it the likeliest token takes all the probability that float32 can tell from 1.
LEAST_TEMPERATURE = 1e-5


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Resolved sampling parameters of one sequence.

    Attributes:
        max_tokens: tokens to generate at most; 0 only computes the prompt, for its logprobs.
        temperature: 0 is greedy, and so is anything below `LEAST_TEMPERATURE`.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: keep the smallest set of tokens with at least this probability, in (0, 1].
        min_p: keep tokens with at least this fraction of the likeliest token's probability.
        seed: draws depend on the seed and the position alone, never on the batch.
        stop_token_ids: generation ends after one of these, end-of-text tokens included
            unless `ignore_eos` removed them when the request was resolved.
        repetition_penalty: divides positive and multiplies negative logits of seen tokens
            (prompt and output), as in transformers; 1 does nothing.
        presence_penalty, frequency_penalty: OpenAI's, over output tokens; 0 does nothing.
        logit_bias: pairs of a token id and what is added to its logit.
        min_tokens: no token of `stop_token_ids` is chosen before this many were generated.
        num_logprobs: report the log probability of each token, and of this many of the likeliest
            beside it (0 is none of those); None reports nothing.
        num_prompt_logprobs: the same for the tokens of the prompt, which is then computed anew.
        grammar: what the output has to be, as a grammar of llguidance; None is free text.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    grammar: str | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < LEAST_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @property
    def is_plainly_greedy(self) -> bool:
        """Whether the likeliest token is taken as the logits are."""
        return not (
            self.temperature >= LEAST_TEMPERATURE
            or self.has_penalties
            or self.logit_bias
            or self.min_tokens
        )
