"""Greedy answers for held-out prompts, and how many of them are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tasks import Example

MAX_NEW_TOKENS = 32
EXAMPLES_PER_BATCH = 25


@dataclass(frozen=True)
class Score:
    """Shares of the answers: equal to the expected one, and merely containing it.

    The second is kinder to a base model that wraps the right answer in other words.
    """

    exact: float
    contained: float
    num_examples: int

    def __str__(self) -> str:
        return f"exact {self.exact:.3f}, contained {self.contained:.3f}"


@torch.inference_mode()
def generate_answers(model: Any, tokenizer: Any, examples: Sequence[Example]) -> list[str]:
    """Answer each prompt by greedy generation; the tokenizer must pad on the left."""
    answers: list[str] = []
    for start in range(0, len(examples), EXAMPLES_PER_BATCH):
        chats = [
            [{"role": "user", "content": example.prompt}]
            for example in examples[start : start + EXAMPLES_PER_BATCH]
        ]
        inputs = tokenizer.apply_chat_template(
            chats,
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        output_ids = model.generate(
            **inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, use_cache=True
        )
        new_ids = output_ids[:, inputs["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    return answers


def score(examples: Sequence[Example], answers: Sequence[str]) -> Score:
    """Compare answers with the expected ones; only white space at the ends is forgiven."""
    pairs = [(example.answer, answer) for example, answer in zip(examples, answers, strict=True)]
    return Score(
        exact=sum(answer.strip() == expected for expected, answer in pairs) / len(pairs),
        contained=sum(expected in answer for expected, answer in pairs) / len(pairs),
        num_examples=len(pairs),
    )
