"""Does routing find the right adapters, is it exact, and what does it cost?

    python -m benchmarks.routing

A real server of the default model in float32, with the adapters and routers of `examples/`. The
last line is one JSON object:

- routed_over_named: by method, single questions answered right without an adapter named, over
  those with the right one named
- base_accuracy: single questions that the base model answers right
- composite_over_best_single: questions of composite prompts that the trained MeteoRA router has
  answered right, over those of the best single adapter; null if that answers none
- decode_over_named: decode tokens/s of a set of random experts and gates, top-2, over those of one
  of its experts named
- mixed_batch_equal: base, plain, composed and routed requests at once are each what they are alone,
  token for token
- max_logit_diff: by method, largest absolute difference from the published equations
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.routing_accuracy import Accuracy, measure_accuracy
from benchmarks.routing_mixed import differing_requests
from benchmarks.routing_parity import max_logit_diff
from benchmarks.routing_questions import read_messages
from benchmarks.routing_speed import RandomSet, SpeedPlan, decode_rates, write_random_set
from benchmarks.server_process import MOTET_SERVE, ServerProcess
from motet.bench.environment import describe_machine
from motet.models.default_model import default_model_dir

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
METHODS = ("meteora", "lora_mixer", "arrow")
COMPOSITE_METHOD = "meteora"

_NAMED, _ROUTED = "random-named", "random-routed"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    num_per_task: int = 20
    num_composite: int = 40
    num_mixed_rounds: int = 4
    num_experts: int = 8
    rank: int = 16
    speed: SpeedPlan = field(default_factory=SpeedPlan)


QUICK = Plan(
    num_per_task=2,
    num_composite=2,
    num_mixed_rounds=1,
    speed=SpeedPlan(num_output_tokens=16, num_repeats=1),
)


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="to try the program, not Motet")
    parser.add_argument("--repeats", type=int, help="turns of each side of the speed comparison")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    if options.repeats is not None:
        plan = replace(plan, speed=replace(plan.speed, num_repeats=options.repeats))
    print("parity", file=sys.stderr, flush=True)
    parity = max_logit_diff()
    with tempfile.TemporaryDirectory(prefix="motet-routing-") as scratch_name:
        scratch = Path(scratch_name)
        random_set = write_random_set(
            default_model_dir(),
            scratch / "random",
            num_experts=plan.num_experts,
            rank=plan.rank,
            seed=0,
        )
        command = [*MOTET_SERVE, "--dtype", "float32", "--no-prefix-cache"]
        command += ["--adapter-dir", str(EXAMPLES / "adapters")]
        command += ["--adapter-root", str(EXAMPLES), "--adapter-root", str(scratch)]
        with ServerProcess(command, scratch / "server.log") as server:
            figures = asyncio.run(measure(server, random_set, plan))
    print(json.dumps({**figures, "max_logit_diff": parity, "machine": describe_machine("torch")}))


async def measure(server: ServerProcess, random_set: RandomSet, plan: Plan) -> dict[str, Any]:
    """All figures that take a server."""
    messages = read_messages(EXAMPLES / "routers" / "held_out.jsonl")
    messages = messages.first(plan.num_per_task, plan.num_composite)
    sets = {method: f"routed-{method}" for method in METHODS}
    async with httpx2.AsyncClient(base_url=server.url, timeout=1800, trust_env=False) as http:
        for method, name in sets.items():
            await _load(http, name, EXAMPLES / "routers" / method)
        await _load(http, _NAMED, random_set.experts[0])
        await _load(http, _ROUTED, random_set.directory)
        rates = await decode_rates(server.url, (_NAMED, _ROUTED), plan.speed)
        differing = await differing_requests(
            http, server.base_name, sets, messages, plan.num_mixed_rounds
        )
        accuracy = await measure_accuracy(http, server.base_name, sets, messages)
    return report(accuracy, rates[_ROUTED], rates[_NAMED], differing)


def report(
    accuracy: Accuracy,
    routed_rates: Sequence[float],
    named_rates: Sequence[float],
    differing: Sequence[str],
) -> dict[str, Any]:
    """The figures.

    Args:
        routed_rates, named_rates: decode tokens/s, in pairs.
        differing: requests that were something else in a mixed batch.
    """
    ratios = sorted(r / n for r, n in zip(routed_rates, named_rates, strict=True))
    best_single = max(accuracy.composite_named.values())
    composite = accuracy.composite_routed[COMPOSITE_METHOD]
    return {
        "routed_over_named": {
            method: _over(routed, accuracy.named) for method, routed in accuracy.routed.items()
        },
        "base_accuracy": round(accuracy.base, 4),
        "composite_over_best_single": _over(composite, best_single),
        "decode_over_named": {
            "median": round(statistics.median(ratios), 3),
            "least": round(ratios[0], 3),
            "largest": round(ratios[-1], 3),
        },
        "mixed_batch_equal": not differing,
        "mixed_batch_differences": list(differing),
        "accuracy": {
            "named": round(accuracy.named, 4),
            "routed": _rounded(accuracy.routed),
            "composite_named": _rounded(accuracy.composite_named),
            "composite_routed": _rounded(accuracy.composite_routed),
        },
        "named_tokens_per_s": round(statistics.median(named_rates), 1),
        "routed_tokens_per_s": round(statistics.median(routed_rates), 1),
    }


def _over(numerator: float, denominator: float) -> float | None:
    """A ratio; None where there is nothing to divide by."""
    return round(numerator / denominator, 4) if denominator > 0 else None


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 4) for name, share in shares.items()}


async def _load(http: httpx2.AsyncClient, name: str, directory: Path) -> None:
    body = {"name": name, "source": {"type": "path", "uri": str(directory)}, "wait": True}
    answer = await http.post("/admin/v1/adapters", json=body)
    if answer.is_error:
        raise RuntimeError(f"{directory.name} was not loaded: {answer.text}")


if __name__ == "__main__":
    main()
