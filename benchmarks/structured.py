"""What does it cost to keep answers to a JSON schema?

Owns: `constrained_over_free`, tokens a second of a batch of constrained requests over those of a
batch of free ones.

Both kinds of round take turns on one server and ask for the same number of tokens with prompts of
the same length. The schema is a list that is too long to end before them.

    python -m benchmarks.structured
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.server_process import MOTET_SERVE, ServerProcess
from motet.bench.environment import describe_machine

_NUM_PROMPT_TOKENS = 32
_FIRST_TOKEN_ID, _END_TOKEN_ID = 1000, 40_000  # ordinary words of the default model
_SCHEMA = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "age", "likes"],
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "likes": {"enum": ["bread", "cheese", "wine", "all of it"]},
        },
    },
}


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        command = [*MOTET_SERVE, "--state-dir", scratch]
        with ServerProcess(command, Path(scratch) / "server.log") as server:
            report = asyncio.run(measure(server, options.batch, options.tokens, options.repeats))
    print(json.dumps({**report, "machine": describe_machine("torch", "llguidance")}))


async def measure(
    server: ServerProcess, batch: int, num_tokens: int, num_repeats: int
) -> dict[str, Any]:
    """Rounds of both kinds, as often as asked for; the first of each is not counted."""
    rng = random.Random(0)
    rates: dict[bool, list[float]] = {False: [], True: []}
    async with httpx2.AsyncClient(base_url=server.url, timeout=600, trust_env=False) as http:
        for repeat in range(-1, num_repeats):
            for constrained in (False, True) if repeat % 2 == 0 else (True, False):
                rate = await _round(http, server, rng, batch, num_tokens, constrained=constrained)
                if repeat >= 0:
                    rates[constrained].append(rate)
            print(f"round {repeat + 1} of {num_repeats}", file=sys.stderr)
    ratios = sorted(c / f for f, c in zip(rates[False], rates[True], strict=True))
    return {
        "batch": batch,
        "free_tokens_per_s": round(statistics.median(rates[False]), 1),
        "constrained_tokens_per_s": round(statistics.median(rates[True]), 1),
        "constrained_over_free": {
            "median": round(statistics.median(ratios), 3),
            "least": round(ratios[0], 3),
            "largest": round(ratios[-1], 3),
        },
    }


async def _round(
    http: httpx2.AsyncClient,
    server: ServerProcess,
    rng: random.Random,
    batch: int,
    num_tokens: int,
    *,
    constrained: bool,
) -> float:
    """Tokens a second of one batch, from the first request to the last answer."""
    body = {
        "model": server.base_name,
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **({"structured_outputs": {"json": _SCHEMA}} if constrained else {}),
    }
    prompts = [
        [rng.randrange(_FIRST_TOKEN_ID, _END_TOKEN_ID) for _ in range(_NUM_PROMPT_TOKENS)]
        for _ in range(batch)
    ]
    started_s = time.perf_counter()
    answers = await asyncio.gather(
        *(http.post("/v1/completions", json={**body, "prompt": each}) for each in prompts)
    )
    seconds = time.perf_counter() - started_s
    for answer in answers:
        answer.raise_for_status()
        num_generated = answer.json()["usage"]["completion_tokens"]
        if num_generated != num_tokens:
            raise RuntimeError(f"an answer has {num_generated} tokens, not {num_tokens}")
    return batch * num_tokens / seconds


if __name__ == "__main__":
    main()
