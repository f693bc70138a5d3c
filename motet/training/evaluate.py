"""How good a router is: what its gates choose, and the answers it gives, greedily.

Owns: `Evaluation`, and when an answer is right.
Does not know: how gates were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch

from motet.training.encoding import NO_LABEL, Encoded, chat_text, pack
from motet.training.examples import Example, answer_pieces, prompt_pieces, text_of
from motet.training.routed_model import RoutedModel

EXAMPLES_PER_BATCH = 20
SPARE_TOKENS = 4  # an answer that is longer than expected by more is wrong anyway


class Evaluation(msgspec.Struct, frozen=True):
    """Shares, each from 0 to 1; None where the held-out data has nothing of the kind.

    Attributes:
        agreement: (token, projection) pairs whose highest gate is the token's expert.
        routed: single questions answered right without naming an expert, by task and over all.
        named: the same with the right expert named.
        composite: questions of composites that are answered right, routed.
        composite_named: the same, with each expert named for the whole generation.
    """

    agreement: float
    routed: dict[str, float]
    named: dict[str, float]
    routed_over_all: float | None
    named_over_all: float | None
    composite: float | None
    composite_named: dict[str, float]


def num_right(example: Example, reply: str) -> int:
    """How many of the questions a reply answers.

    A single answer is the whole reply, but for white space around it. An answer of a composite is
    a line of its own; its number may be left out, since an expert by itself knows none.
    """
    if not example.is_composite:
        return int(reply.strip() == example.segments[0].answer.strip())
    lines = {line.strip() for line in reply.splitlines()}
    answers = [segment.answer.strip() for segment in example.segments]
    return sum(
        answer in lines or f"{number}. {answer}" in lines
        for number, answer in enumerate(answers, start=1)
    )


@torch.inference_mode()
def evaluate(
    model: RoutedModel,
    tokenizer: Any,
    names: Sequence[str],
    examples: Sequence[Example],
    encoded: Sequence[Encoded],
    on_part: Callable[[str], None],
) -> Evaluation:
    """Measure a router on held-out examples.

    Args:
        names: of the experts, in the order of the gates.
        encoded: the examples as tokens.
        on_part: told what is measured next.
    """
    on_part("agreement")
    agreed = agreement(model, encoded)
    singles = [example for example in examples if not example.is_composite]
    composites = [example for example in examples if example.is_composite]
    routed, named = {}, {}
    for expert, name in enumerate(names):
        if of_task := [each for each in singles if each.segments[0].task == name]:
            on_part(name)
            routed[name] = share_right(model, tokenizer, of_task)
            with model.telling(torch.tensor(expert)):
                named[name] = share_right(model, tokenizer, of_task)
    composite, composite_named = None, {}
    if composites:
        on_part("composites")
        composite = share_right(model, tokenizer, composites)
        for expert, name in enumerate(names):
            on_part(f"composites, {name} named")
            with model.telling(torch.tensor(expert)):
                composite_named[name] = share_right(model, tokenizer, composites)
    sizes = {name: sum(each.segments[0].task == name for each in singles) for name in routed}
    return Evaluation(
        agreement=agreed,
        routed=routed,
        named=named,
        routed_over_all=_over_all(routed, sizes),
        named_over_all=_over_all(named, sizes),
        composite=composite,
        composite_named=composite_named,
    )


def agreement(model: RoutedModel, encoded: Sequence[Encoded]) -> float:
    """Share of labelled tokens, over all projections with gates, whose label scores highest."""
    num_agreed = num_labelled = 0
    for start in range(0, len(encoded), EXAMPLES_PER_BATCH):
        batch = pack(encoded[start : start + EXAMPLES_PER_BATCH])
        is_labelled = batch.labels[0] != NO_LABEL
        with model.recording() as products:
            model.hidden_states(batch)
        best = model.scores(torch.cat(products))[:, is_labelled].argmax(-1)
        num_agreed += int((best == batch.labels[0, is_labelled]).sum())
        num_labelled += best.numel()
    return num_agreed / num_labelled


def share_right(model: RoutedModel, tokenizer: Any, examples: Sequence[Example]) -> float:
    """Share of the questions of all examples that greedy generation answers."""
    # Prompts of like length together, so that little is computed on padding.
    order = sorted(examples, key=lambda example: len(text_of(prompt_pieces(example))))
    right = 0
    for start in range(0, len(order), EXAMPLES_PER_BATCH):
        batch = order[start : start + EXAMPLES_PER_BATCH]
        replies = generate_replies(model, tokenizer, batch)
        right += sum(map(num_right, batch, replies))
    return right / sum(len(example.segments) for example in order)


@torch.inference_mode()
def generate_replies(model: RoutedModel, tokenizer: Any, examples: Sequence[Example]) -> list[str]:
    """Greedy replies, as long as the longest that is expected; prompts are padded on the left."""
    prompts = [
        tokenizer(chat_text(tokenizer, text_of(prompt_pieces(each)))[0], add_special_tokens=False)[
            "input_ids"
        ]
        for each in examples
    ]
    longest = max(map(len, prompts))
    answers = [text_of(answer_pieces(each)) for each in examples]
    longest_answer = max(map(len, tokenizer(answers, add_special_tokens=False)["input_ids"]))
    ids = torch.tensor([[0] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    output = model.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=longest_answer + SPARE_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    replies: list[str] = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return replies


def _over_all(shares: dict[str, float], sizes: dict[str, int]) -> float | None:
    total = sum(sizes.values())
    return sum(shares[name] * sizes[name] for name in shares) / total if total else None
