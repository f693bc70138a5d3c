"""The work that the sides of a throughput comparison do, and what each reports of it.

Owns: one round's prompts and adapters, and the figures of a round.
Does not know: who does the work (`motet_side.py`, `peft_side.py`). Plain data, no torch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Round:
    """Requests that are sent all at once. All prompts are equally long, so that none is padded.

    Attributes:
        prompts: token ids, one list per request.
        adapters: the adapter of each request; None is the base model.
        num_output_tokens: what each request generates, end-of-text tokens or not.
    """

    prompts: list[list[int]]
    adapters: list[str | None]
    num_output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished round: its wall time, and the text that each request generated."""

    elapsed_s: float
    num_output_tokens: int
    texts: list[str]

    @property
    def tokens_per_s(self) -> float:
        return self.num_output_tokens / self.elapsed_s


def draw_round(
    rng: random.Random,
    token_ids: Sequence[int],
    adapters: Sequence[str | None],
    num_prompt_tokens: int,
    num_output_tokens: int,
) -> Round:
    """One request for each of `adapters`, with prompts of fresh random tokens out of `token_ids`.

    Fresh tokens keep a prefix cache from doing the work of an earlier round.
    """
    return Round(
        prompts=[rng.choices(token_ids, k=num_prompt_tokens) for _ in adapters],
        adapters=list(adapters),
        num_output_tokens=num_output_tokens,
    )


def plain_token_ids(model_dir: Path) -> list[int]:
    """The vocabulary without the tokens that have a meaning of their own."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
