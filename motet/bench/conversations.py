"""Conversations: prompts that begin as others did, so that a prefix cache has something to do.

Owns: system prompts, turns, and the time between them.
Does not know: what a server answers.

Each adapter has a few system prompts, and every conversation begins with one of them. A turn's
prompt is all that was said before, and a question. What the server really answered is not known
here: as many tokens of the conversation's own stream stand for it. So a prefix cache finds the
whole prompt of the turn before, and not its answer.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from motet.bench.kind import Drawn
from motet.bench.load import (
    Adapters,
    Arrivals,
    Exponent,
    Lengths,
    NumAdapters,
    OutputTokens,
    RankCycle,
    check_count,
    check_range,
    draw_arrivals,
    draw_lengths,
    in_order,
    round_times,
)
from motet.bench.popularity import draw_zipf
from motet.bench.workload import LONGEST, WorkRequest

NumTurns = Annotated[int, Meta(ge=1, le=1000)]


class ConversationsSpec(Arrivals, frozen=True, kw_only=True):
    """Parameters of conversations. Rate and duration count those that begin."""

    num_adapters: NumAdapters = 32
    exponent: Exponent = 1.0
    rank_cycle: RankCycle = (16,)
    num_system_prompts: Annotated[
        int, Meta(ge=1, le=1000, description="of each adapter; a conversation has one of them")
    ] = 2
    system_tokens: Annotated[
        Lengths, Meta(description="of a system prompt: from the first to just below the second")
    ] = (128, 512)
    turns: Annotated[
        tuple[NumTurns, NumTurns],
        Meta(description="of a conversation: from the first to just below the second"),
    ] = (1, 8)
    question_tokens: Annotated[
        Lengths, Meta(description="of a question: from the first to just below the second")
    ] = (8, 64)
    output_tokens: OutputTokens = (16, 128)
    think_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="from one turn to the next, on average (exponential); a turn waits for "
            "the answer before it all the same",
        ),
    ] = 10.0
    max_prompt_tokens: Annotated[
        int, Meta(ge=1, le=LONGEST, description="a conversation ends before a longer prompt")
    ] = 4096

    def __post_init__(self) -> None:
        for name in ("system_tokens", "turns", "question_tokens", "output_tokens"):
            check_range(name, getattr(self, name))
        check_count(self.num_requests * (self.turns[1] - 1))
        longest = self.system_tokens[1] + self.question_tokens[1] - 2
        if longest > self.max_prompt_tokens:
            raise ValueError(
                f"max_prompt_tokens is {self.max_prompt_tokens}: expected at least {longest}, the "
                "longest system prompt and question."
            )


def draw_conversations(spec: ConversationsSpec, seed: int) -> Drawn:
    """The turns of all conversations in the order of their arrival."""
    rng = np.random.RandomState(seed)
    count = spec.num_requests
    adapters = Adapters("adapter", spec.rank_cycle)
    indices = draw_zipf(rng, spec.num_adapters, spec.exponent, count).tolist()
    columns = zip(
        indices,
        rng.randint(spec.num_system_prompts, size=count).tolist(),
        draw_arrivals(rng, count, spec.rate_per_s, spec.cv),
        strict=True,
    )
    requests: list[WorkRequest] = []
    for stream, (adapter, number, begins_s) in enumerate(columns):
        first = WorkRequest(
            index=len(requests),
            arrival_s=begins_s,
            adapter=adapters.name(adapter),
            num_prompt_tokens=0,
            num_output_tokens=0,
            stream=stream,
            prefix=f"{adapters.name(adapter)}/system-{number}",
            num_prefix_tokens=_system_tokens(spec, seed, adapter, number),
        )
        requests += _turns(spec, rng, first)
    return Drawn(requests=in_order(requests), ranks=adapters.ranks(indices))


def _turns(
    spec: ConversationsSpec, rng: np.random.RandomState, first: WorkRequest
) -> Iterator[WorkRequest]:
    """One conversation; `first` is its first turn but for the lengths. Their indices go on."""
    count = rng.randint(*spec.turns)
    questions = draw_lengths(rng, spec.question_tokens, count)
    answers = draw_lengths(rng, spec.output_tokens, count)
    arrivals_s = first.arrival_s + np.cumsum([0.0, *rng.exponential(spec.think_s, count - 1)])
    num_tokens = first.num_prefix_tokens
    for turn, (arrival_s, question, answer) in enumerate(
        zip(round_times(arrivals_s), questions, answers, strict=True)
    ):
        num_tokens += question
        if num_tokens > spec.max_prompt_tokens:
            return
        yield replace(
            first,
            index=first.index + turn,
            arrival_s=arrival_s,
            num_prompt_tokens=num_tokens,
            num_output_tokens=answer,
            after=first.index + turn - 1 if turn else None,
        )
        num_tokens += answer


def _system_tokens(spec: ConversationsSpec, seed: int, adapter: int, number: int) -> int:
    """Of one system prompt: the same in all its conversations, and known without the others."""
    return int(np.random.RandomState([seed, adapter, number]).randint(*spec.system_tokens))
