"""Many examples as one sequence without padding, for training and checking on a CPU.

All prompts of a task begin alike: the system message and the instruction. That prefix is computed
once, and every example attends to it and to itself, never to another example:

    prefix | example 1 | example 2 | ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tasks import Example
from torch import Tensor

EXAMPLES_PER_CHECK = 8


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; the answer ends with the end-of-turn token."""

    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class Pack:
    """One packed sequence and the positions that predict its answer tokens.

    `predictors[i]` is the position whose next token is `targets[i]`, and `owners[i]` is the index
    of the example that it belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    predictors: Tensor
    targets: Tensor
    owners: Tensor


def encode(tokenizer: Any, example: Example) -> Encoded:
    """Encode through the chat template, as a chat server does."""
    messages = [{"role": "user", "content": example.prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer_ids = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    return Encoded(
        prompt_ids=tokenizer(text, add_special_tokens=False)["input_ids"],
        answer_ids=[*answer_ids, tokenizer.eos_token_id],
    )


def common_prefix_length(examples: Sequence[Encoded]) -> int:
    """Number of leading prompt tokens that all examples share."""
    length = min(len(example.prompt_ids) for example in examples) - 1
    first = examples[0].prompt_ids
    for example in examples:
        while example.prompt_ids[:length] != first[:length]:
            length -= 1
    return length


def pack(examples: Sequence[Encoded], prefix_length: int) -> Pack:
    """Pack examples that share their first `prefix_length` prompt tokens."""
    input_ids = list(examples[0].prompt_ids[:prefix_length])
    position_ids = list(range(prefix_length))
    segments = [-1] * prefix_length
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, example in enumerate(examples):
        own_prompt = example.prompt_ids[prefix_length:]
        first_predictor = len(input_ids) + len(own_prompt) - 1
        # The last answer token is only ever predicted, so it is not fed in.
        own_ids = own_prompt + example.answer_ids[:-1]
        input_ids += own_ids
        position_ids += range(prefix_length, prefix_length + len(own_ids))
        segments += [index] * len(own_ids)
        predictors += range(first_predictor, first_predictor + len(example.answer_ids))
        targets += example.answer_ids
        owners += [index] * len(example.answer_ids)
    segment = torch.tensor(segments)
    is_visible = (segment[None, :] == segment[:, None]) | (segment[None, :] == -1)
    return Pack(
        input_ids=torch.tensor(input_ids)[None],
        position_ids=torch.tensor(position_ids)[None],
        attention_mask=is_visible.tril()[None, None],
        predictors=torch.tensor(predictors),
        targets=torch.tensor(targets),
        owners=torch.tensor(owners),
    )


def answer_logits(model: Any, batch: Pack) -> Tensor:
    """Logits at the positions that predict answer tokens, and at no other, in float32."""
    causal_lm = model.get_base_model()
    hidden = causal_lm.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
    ).last_hidden_state[0]
    logits: Tensor = causal_lm.lm_head(hidden[batch.predictors]).float()
    return logits


@torch.inference_mode()
def share_right(model: Any, examples: Sequence[Encoded], prefix_length: int) -> float:
    """Share of examples whose whole answer, end of turn included, is the greedy continuation.

    One forward pass decides it: greedy decoding reproduces the answer exactly when every answer
    token is the most likely one after the right tokens before it.
    """
    num_right = 0
    for start in range(0, len(examples), EXAMPLES_PER_CHECK):
        chunk = examples[start : start + EXAMPLES_PER_CHECK]
        batch = pack(chunk, prefix_length)
        is_wrong = answer_logits(model, batch).argmax(-1) != batch.targets
        num_right += len(chunk) - len(set(batch.owners[is_wrong].tolist()))
    return num_right / len(examples)
