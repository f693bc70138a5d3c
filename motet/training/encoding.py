"""Examples as tokens: which expert each should get, and which are to be predicted.

Owns: `Encoded`, and `Batch`, many examples as one sequence without padding.
Does not know: models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

import torch
from torch import Tensor

from motet.core.errors import ConfigError
from motet.training.examples import Example, Piece, answer_pieces, prompt_pieces, text_of

NO_LABEL = -100  # torch's cross-entropy skips it, and `Routing.told` leaves it to the gates


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example, prompt and reply.

    Attributes:
        ids: all tokens but the last, the end of turn, which is only ever predicted.
        labels: per token, the expert that it should get, or `NO_LABEL`.
        targets: per token, the token to predict after it, or `NO_LABEL`.
    """

    ids: list[int]
    labels: list[int]
    targets: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Whole examples one after another; none attends to another.

    Attributes:
        input_ids, position_ids, labels, targets: int64 [1, num_tokens]; see `Encoded`.
        attention_mask: bool [1, 1, num_tokens, num_tokens].
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    targets: Tensor
    attention_mask: Tensor


def chat_text(tokenizer: Any, prompt: str) -> tuple[str, int]:
    """What the model reads before its reply, and where in that the user's message begins.

    Raises:
        ConfigError: the model's chat template does not keep the message as it is.
    """
    if tokenizer.chat_template is None:
        return f"{prompt}\n", 0
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    start = text.rfind(prompt)
    if start < 0:
        raise ConfigError(
            "The model's chat template changes what the user wrote, so no token can be told its "
            f"task. Check the spaces around the prompt that begins {prompt[:40]!r}."
        )
    return text, start


def encode(
    tokenizer: Any, example: Example, experts: Mapping[str, int], *, learns_prompts: bool = False
) -> Encoded:
    """Tokens of one exchange, as a chat server makes them.

    The label of a token is the expert of the piece that it lies in, in a prompt, and of the piece
    that the token after it lies in, in a reply: that is the token which it decides. What belongs
    to no task (the template, the numbers of a composite) has no label; the whole of an exchange
    about one task, from its first word on, has that task's.

    Args:
        experts: index by task.
        learns_prompts: the tokens of the user's message are to be predicted too.
    """
    asked = prompt_pieces(example)
    text, start = chat_text(tokenizer, text_of(asked))
    prompt_ids, prompt_tasks = _tokens(
        tokenizer,
        [Piece(text[:start], None), *asked, Piece(text[start + len(text_of(asked)) :], None)],
    )
    answer_ids, answer_tasks = _tokens(tokenizer, answer_pieces(example))
    answer_ids.append(tokenizer.eos_token_id)
    # The end of turn follows from the last answer.
    answer_tasks.append(example.segments[-1].task)
    tasks = prompt_tasks[:-1] + answer_tasks
    if not example.is_composite:
        first = next(i for i, task in enumerate(tasks) if task is not None)
        tasks[first:] = [example.segments[0].task] * (len(tasks) - first)
    ids = prompt_ids + answer_ids
    targets = [NO_LABEL] * (len(prompt_ids) - 1) + answer_ids
    if learns_prompts:
        first = next(i for i, task in enumerate(prompt_tasks) if task is not None)
        targets[first : len(prompt_ids) - 1] = ids[first + 1 : len(prompt_ids)]
    labels = [NO_LABEL if task is None else experts[task] for task in tasks]
    return Encoded(ids[:-1], labels, targets)


def _tokens(tokenizer: Any, pieces: Sequence[Piece]) -> tuple[list[int], list[str | None]]:
    """Token ids of the whole text, and for each the task of the piece that its end lies in."""
    encoded = tokenizer(
        text_of(list(pieces)), add_special_tokens=False, return_offsets_mapping=True
    )
    ends = list(accumulate(len(piece.text) for piece in pieces))
    tasks: list[str | None] = []
    current = 0
    for _, end in encoded["offset_mapping"]:
        while end > ends[current]:
            current += 1
        tasks.append(pieces[current].task)
    return list(encoded["input_ids"]), tasks


def pack(examples: Sequence[Encoded]) -> Batch:
    """Examples as one batch, in order."""
    lengths = torch.tensor([len(example.ids) for example in examples])
    owner = torch.arange(len(examples)).repeat_interleave(lengths)
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    mask = (owner[:, None] == owner[None, :]).tril()

    def row(name: str) -> Tensor:
        return torch.tensor([value for each in examples for value in getattr(each, name)])[None]

    return Batch(
        input_ids=row("ids"),
        position_ids=(torch.arange(len(owner)) - starts)[None],
        labels=row("labels"),
        targets=row("targets"),
        attention_mask=mask[None, None],
    )


def batches(examples: Sequence[Encoded], max_tokens: int, seed: int) -> Iterator[Batch]:
    """Endless batches of whole examples in random order; the same arguments give the same ones.

    A batch has at most `max_tokens` tokens, or one example that is longer.
    """
    rng = Random(seed)
    order = list(examples)
    chosen: list[Encoded] = []
    num_tokens = 0
    while True:
        rng.shuffle(order)
        for example in order:
            if chosen and num_tokens + len(example.ids) > max_tokens:
                yield pack(chosen)
                chosen, num_tokens = [], 0
            chosen.append(example)
            num_tokens += len(example.ids)
