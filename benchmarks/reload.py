"""Does anyone notice that an alias is switched, again and again, under full load?

Owns: `mixed_streams`, `failed_streams`, `slowest_stream_ratio` and `ttft_p99_ratio`.

Two example adapters are versions 1 and 2 of one name. Readers stream greedy completions of that
name all the time; in the one phase the alias gives each version half of the requests, in the other
it is flipped between them again and again: both keep both versions busy. What each version answers
to each prompt has been asked before, so a stream that is not wholly one of the two texts shows. The
phases take turns, and differ in the flips alone.

    python -m benchmarks.reload
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.open_loop import Answer, Completion, CompletionClient, CompletionError
from benchmarks.server_process import MOTET_SERVE, ServerProcess
from motet.bench.environment import describe_machine

NAME = "voice"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "adapters"
VERSIONS = (EXAMPLES / "iso-dates", EXAMPLES / "text-to-sql")

_NUM_PROMPT_TOKENS = 16
_FIRST_TOKEN_ID, _END_TOKEN_ID = 1000, 40_000  # ordinary words of the default model


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        num_readers: streams that run at once.
        num_streams_each: that each reader has, one after another.
        num_flips: of the alias, spread over a phase.
    """

    num_readers: int
    num_streams_each: int
    num_flips: int
    num_output_tokens: int
    num_prompts: int
    num_repeats: int


@dataclass
class Phase:
    """What came of one phase."""

    answers: list[Answer]
    errors: list[str]

    @property
    def slowest_s(self) -> float:
        return max(answer.stream.total_s for answer in self.answers)

    @property
    def ttft_p99_s(self) -> float:
        firsts = [answer.stream.ttft_s for answer in self.answers]
        return statistics.quantiles(firsts, n=100)[98]


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--streams-each", type=int, default=2)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    plan = Plan(
        num_readers=options.readers,
        num_streams_each=options.streams_each,
        num_flips=options.flips,
        num_output_tokens=options.tokens,
        num_prompts=options.prompts,
        num_repeats=options.repeats,
    )
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        command = [*MOTET_SERVE, "--adapter-root", str(EXAMPLES), "--state-dir", scratch]
        with ServerProcess(command, log) as server:
            report = asyncio.run(measure(server.url, plan))
    print(json.dumps({**report, "machine": describe_machine("torch")}))


async def measure(url: str, plan: Plan) -> dict[str, Any]:
    """Both phases, as often as planned. Raises AssertionError if the versions answer alike."""
    rng = random.Random(0)
    prompts = [
        [rng.randrange(_FIRST_TOKEN_ID, _END_TOKEN_ID) for _ in range(_NUM_PROMPT_TOKENS)]
        for _ in range(plan.num_prompts)
    ]
    async with (
        CompletionClient(url) as client,
        httpx2.AsyncClient(base_url=url, timeout=120, trust_env=False) as admin,
    ):
        for directory in VERSIONS:
            await _load(admin, directory)
        expected = [await _texts_of(client, plan, prompts, number) for number in (1, 2)]
        same = [a == b for a, b in zip(*expected, strict=True)]
        assert not any(same), "the versions must answer every prompt differently"
        phases: dict[bool, list[Phase]] = {False: [], True: []}
        # Warms up, too. Readers then begin one after another, so that streams always begin.
        typical_s = (await _phase(client, admin, plan, prompts, 0.0, num_flips=0)).slowest_s
        for repeat in range(plan.num_repeats):
            for with_flips in (False, True) if repeat % 2 == 0 else (True, False):
                num_flips = plan.num_flips if with_flips else 0
                phase = await _phase(client, admin, plan, prompts, typical_s, num_flips=num_flips)
                phases[with_flips].append(phase)
                print(
                    f"{'flips' if with_flips else 'still'}, repeat {repeat + 1}: slowest "
                    f"{phase.slowest_s:.2f} s, first token p99 {phase.ttft_p99_s:.2f} s",
                    file=sys.stderr,
                )
    return report(plan, prompts, expected, phases)


async def _load(admin: httpx2.AsyncClient, directory: Path) -> None:
    body = {"name": NAME, "source": {"type": "path", "uri": str(directory)}, "wait": True}
    (await admin.post("/admin/v1/adapters", json=body)).raise_for_status()


async def _texts_of(
    client: CompletionClient, plan: Plan, prompts: Sequence[list[int]], version: int
) -> list[str]:
    model = f"{NAME}@{version}"
    answers = [await client.complete(_completion(plan, model, prompt)) for prompt in prompts]
    return [answer.stream.text for answer in answers]


async def _phase(
    client: CompletionClient,
    admin: httpx2.AsyncClient,
    plan: Plan,
    prompts: Sequence[list[int]],
    stagger_s: float,
    *,
    num_flips: int,
) -> Phase:
    """All streams of all readers, who begin within `stagger_s`, and the flips beside them."""
    phase = Phase([], [])

    async def read(reader: int) -> None:
        await asyncio.sleep(stagger_s * reader / plan.num_readers)
        for i in range(plan.num_streams_each):
            prompt = prompts[(reader + i) % len(prompts)]
            try:
                phase.answers.append(await client.complete(_completion(plan, NAME, prompt)))
            except CompletionError as error:
                phase.errors.append(str(error))

    readers = [read(each) for each in range(plan.num_readers)]
    await _switch(admin, {"1": 1, "2": 1})
    flip_for_s = stagger_s * (plan.num_streams_each + 1)
    await asyncio.gather(_flip(admin, num_flips, flip_for_s), *readers)
    return phase


async def _flip(admin: httpx2.AsyncClient, num_flips: int, duration_s: float) -> None:
    for i in range(num_flips):
        await _switch(admin, {str(1 + i % 2): 1})
        await asyncio.sleep(duration_s / num_flips)


async def _switch(admin: httpx2.AsyncClient, weights: dict[str, float]) -> None:
    body = {"weights": weights}
    (await admin.put(f"/admin/v1/adapters/{NAME}/alias", json=body)).raise_for_status()


def _completion(plan: Plan, model: str, prompt: list[int]) -> Completion:
    return Completion(model=model, prompt=prompt, num_output_tokens=plan.num_output_tokens)


def report(
    plan: Plan,
    prompts: Sequence[list[int]],
    expected: Sequence[Sequence[str]],
    phases: dict[bool, list[Phase]],
) -> dict[str, Any]:
    """What is printed.

    Args:
        expected: the text of each prompt, for version 1 and for version 2.
        phases: those without and with flips, in pairs.
    """
    version_of = [
        {tuple(prompt): text for prompt, text in zip(prompts, texts, strict=True)}
        for texts in expected
    ]
    seen: Counter[str] = Counter()
    for phase in phases[True]:
        for answer in phase.answers:
            prompt = tuple(answer.completion.prompt)
            matches = [answer.stream.text == texts[prompt] for texts in version_of]
            seen["1" if matches[0] else "2" if matches[1] else "mixed"] += 1
    pairs = list(zip(phases[False], phases[True], strict=True))
    slowest = sorted(with_.slowest_s / without.slowest_s for without, with_ in pairs)
    ttft = sorted(with_.ttft_p99_s / without.ttft_p99_s for without, with_ in pairs)
    errors = [error for each in phases.values() for phase in each for error in phase.errors]
    return {
        "readers": plan.num_readers,
        "flips_per_phase": plan.num_flips,
        "streams_of_version": {"1": seen["1"], "2": seen["2"]},
        "mixed_streams": seen["mixed"],
        "failed_streams": len(errors),
        "first_error": errors[0] if errors else None,
        "slowest_stream_ratio": _spread(slowest),
        "ttft_p99_ratio": _spread(ttft),
    }


def _spread(ordered: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ordered), 3),
        "least": round(ordered[0], 3),
        "largest": round(ordered[-1], 3),
    }


if __name__ == "__main__":
    main()
