"""How many tokens per second, beside transformers + PEFT, and what do adapters cost?

    python -m benchmarks.throughput

Four sides do the same work on the same machine: a number of requests sent at once, each with a
prompt of random tokens and a fixed number of greedy output tokens.

- `motet_base`: Motet, every request to the base model
- `motet_lora`: Motet, every request to another adapter, of mixed ranks, on all seven projections
- `peft`: transformers + PEFT, the same adapters as one mixed batch (`adapter_names`)
- `transformers`: transformers without PEFT, every request to the base model, as one static batch

Each side is a process of its own, and stays up; they take turns, one at a time, in an order that
rotates from repeat to repeat, so that a change of the machine's pace meets all of them alike.
Everything is in float32 with the same number of threads. Motet is measured as users meet it:
`motet serve`, streams over HTTP. The last line of the output is one JSON object.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.motet_side import MotetSide
from benchmarks.peft_side import PeftSide
from benchmarks.work import Outcome, Round, draw_round, plain_token_ids
from motet.bench.environment import describe_machine

RANKS = (8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. Each request of `motet_lora` and `peft` has an adapter of its own."""

    num_requests: int = 32
    num_prompt_tokens: int = 128
    num_output_tokens: int = 64
    num_repeats: int = 3
    num_threads: int
    seed: int = 0

    @property
    def ranks(self) -> list[int]:
        return [RANKS[index % len(RANKS)] for index in range(self.num_requests)]


def measure(plan: Plan, model_dir: Path) -> dict[str, Any]:
    """Run the comparison and return the report. Its files are gone afterwards."""
    from benchmarks.random_adapters import write_adapters

    with tempfile.TemporaryDirectory(prefix="motet-throughput-") as scratch_name:
        scratch = Path(scratch_name)
        _say(f"writing {plan.num_requests} adapters of ranks {sorted(set(plan.ranks))}")
        adapters = write_adapters(model_dir, scratch / "adapters", plan.ranks, plan.seed)
        _say("starting all sides")
        with (
            MotetSide(model_dir, adapters, plan.num_threads, scratch / "motet.log") as motet,
            PeftSide(model_dir, adapters, plan.num_threads, scratch / "peft.log") as peft,
            PeftSide(model_dir, {}, plan.num_threads, scratch / "transformers.log") as bare,
        ):
            rng = random.Random(plan.seed)
            token_ids = plain_token_ids(model_dir)

            def draw(names: Sequence[str | None]) -> Round:
                return draw_round(
                    rng, token_ids, names, plan.num_prompt_tokens, plan.num_output_tokens
                )

            num_same_texts = _warm_up(motet, peft, draw(list(adapters)), draw([None]))
            base = [None] * plan.num_requests
            bare.run(draw([None]))
            sides: dict[str, Callable[[], Outcome]] = {
                "motet_base": lambda: motet.run(draw(base)),
                "motet_lora": lambda: motet.run(draw(list(adapters))),
                "peft": lambda: peft.run(draw(list(adapters))),
                "transformers": lambda: bare.run(draw(base)),
            }
            speeds = _take_turns(sides, plan)
    return report(plan, speeds, num_same_texts, model_dir.name)


def _warm_up(motet: MotetSide, peft: PeftSide, lora: Round, base: Round) -> int:
    """One untimed round each; the number of requests to which both gave the same text."""
    motet.run(base)
    texts = motet.run(lora).texts
    expected = peft.run(lora).texts
    num_same = sum(a == b for a, b in zip(texts, expected, strict=True))
    _say(f"warm-up: {num_same} of {len(texts)} answers of Motet and PEFT are the same text")
    return num_same


def _take_turns(sides: Mapping[str, Callable[[], Outcome]], plan: Plan) -> dict[str, list[float]]:
    """Output tokens per second of each side in each repeat."""
    names = list(sides)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    expected_tokens = plan.num_requests * plan.num_output_tokens
    for repeat in range(plan.num_repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            outcome = sides[name]()
            if outcome.num_output_tokens != expected_tokens:
                raise RuntimeError(
                    f"{name} generated {outcome.num_output_tokens} tokens, "
                    f"expected {expected_tokens}: the sides did not do the same work"
                )
            speeds[name].append(outcome.tokens_per_s)
            _say(f"repeat {repeat + 1}: {name} {outcome.tokens_per_s:.1f} tokens/s")
    return speeds


def report(
    plan: Plan, speeds: Mapping[str, Sequence[float]], num_same_texts: int, model_name: str
) -> dict[str, Any]:
    """The figures, from output tokens per second by side and repeat. Ratios are of medians."""
    median = {name: statistics.median(values) for name, values in speeds.items()}

    def paired(numerator: str, denominator: str) -> list[float]:
        pairs = zip(speeds[numerator], speeds[denominator], strict=True)
        return [round(a / b, 3) for a, b in pairs]

    return {
        "vs_peft": round(median["motet_lora"] / median["peft"], 3),
        "base_vs_transformers": round(median["motet_base"] / median["transformers"], 3),
        "lora_tax": round(1 - median["motet_lora"] / median["motet_base"], 4),
        "motet_base_tok_s": round(median["motet_base"], 2),
        "motet_lora_tok_s": round(median["motet_lora"], 2),
        "peft_tok_s": round(median["peft"], 2),
        "transformers_tok_s": round(median["transformers"], 2),
        "tok_s_by_repeat": {name: [round(v, 2) for v in values] for name, values in speeds.items()},
        "vs_peft_by_repeat": paired("motet_lora", "peft"),
        "lora_over_base_by_repeat": paired("motet_lora", "motet_base"),
        "same_text_as_peft": f"{num_same_texts}/{plan.num_requests}",
        "work": {**asdict(plan), "ranks": plan.ranks, "model": model_name, "dtype": "float32"},
        "machine": describe_machine("torch", "transformers", "peft"),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="a Hugging Face directory; the default model if not given"
    )
    parser.add_argument("--repeats", type=int, default=Plan.num_repeats, help="rounds of each side")
    parser.add_argument(
        "--threads", type=int, help="CPU threads of each side; all cores by default"
    )
    parser.add_argument("--seed", type=int, default=Plan.seed, help="of adapters and prompts")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny amount of work: to try the program, not Motet"
    )
    return parser.parse_args()


def main() -> None:
    arguments = _parse_arguments()
    size = {"num_requests": 4, "num_prompt_tokens": 16, "num_output_tokens": 8}
    plan = Plan(
        **(size if arguments.quick else {}),
        num_repeats=arguments.repeats,
        num_threads=arguments.threads or len(os.sched_getaffinity(0)),
        seed=arguments.seed,
    )
    if arguments.model is None:
        from motet.models.default_model import default_model_dir

        arguments.model = default_model_dir()
    print(json.dumps(measure(plan, arguments.model)))


if __name__ == "__main__":
    main()
