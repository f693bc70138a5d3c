"""Is a request of a mixed batch what it is alone, token for token?

Owns: the mix of base, plain, composed and routed requests, and the comparison.
Does not know: the server, which must not have a prefix cache: what was computed alone would be
used again.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from benchmarks.routing_accuracy import chat_body, first_choice
from benchmarks.routing_questions import Message, Messages

_NUM_TOKENS = 48


async def differing_requests(
    http: httpx2.AsyncClient,
    base: str,
    sets: Mapping[str, str],
    messages: Messages,
    num_rounds: int,
) -> list[str]:
    """Run each request alone, then all at once, as often as asked.

    Returns:
        A line for each request whose tokens differed; none, if all is well.
    """
    found = []
    for turn in range(num_rounds):
        print(f"a mixed batch, {turn + 1} of {num_rounds}", file=sys.stderr, flush=True)
        bodies = mixed_bodies(base, sets, messages, turn)
        alone = [await _token_ids(http, body) for body in bodies]
        together = await asyncio.gather(*(_token_ids(http, body) for body in bodies))
        for body, one, other in zip(bodies, alone, together, strict=True):
            if one != other:
                same = next(
                    (
                        i
                        for i, pair in enumerate(zip(one, other, strict=False))
                        if len(set(pair)) > 1
                    ),
                    min(len(one), len(other)),
                )
                found.append(f"{body['model']} {body.get('lora', '')}: from token {same} on")
    return found


def mixed_bodies(
    base: str, sets: Mapping[str, str], messages: Messages, turn: int
) -> list[dict[str, Any]]:
    """Chats of every kind, with messages that change from turn to turn."""
    tasks = messages.tasks
    first, second, third = (tasks[(turn + i) % len(tasks)] for i in range(3))
    models: Sequence[tuple[str, dict[str, float] | None]] = [
        (base, None),
        (first, None),
        (second, None),
        (f"{first}+{third}", None),
        (base, {first: 0.7, second: 0.3}),
        (base, {task: 1 / len(tasks) for task in tasks}),
        *((name, None) for name in sets.values()),
        (base, None),
        (third, None),
    ]
    asked: list[Message] = [*messages.composite, *messages.single]
    bodies = []
    for index, (model, lora) in enumerate(models):
        text = asked[(turn * len(models) + index) % len(asked)].text
        body = chat_body(model, text, _NUM_TOKENS)
        body |= {"ignore_eos": True, "return_token_ids": True}
        bodies.append(body if lora is None else {**body, "lora": lora})
    return bodies


async def _token_ids(http: httpx2.AsyncClient, body: dict[str, Any]) -> list[int]:
    token_ids: list[int] = (await first_choice(http, body))["token_ids"]
    if len(token_ids) != _NUM_TOKENS:
        raise RuntimeError(f"{body['model']} gave {len(token_ids)} tokens, not {_NUM_TOKENS}")
    return token_ids
