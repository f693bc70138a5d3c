"""The cost model's constants for this machine: real steps of the default model, and a fit to them.

Owns: which steps are measured.
Does not know: the fit (`least_squares.py`).

An engine in this process, without HTTP. Two of three kinds of steps are for the fit, and the others
show how far it is off where it was not fitted.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.lora_pool import row_elems, uniform_ranks
from benchmarks.simulator.cost_model import CostModel, StepWork
from benchmarks.simulator.devices import Device
from benchmarks.simulator.least_squares import Measured, fit_device
from motet.bench.environment import describe_machine
from motet.core.config import EngineConfig
from motet.kernels.types import load_kernels
from motet.models.decoder import Decoder
from motet.models.loader import load_decoder

_CPU = torch.device("cpu")
_ELEM_BYTES = 4
_RANK = 16
_POOL_BYTES = 1 << 30
_MAX_STEP_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: each number of sequences at each context, and prompts of each length."""

    num_sequences: Sequence[int] = (1, 4, 16)
    num_context_tokens: Sequence[int] = (32, 256)
    num_prompt_tokens: Sequence[int] = (16, 64, 256)
    num_steps: int = 5


def calibrate(device: Device, plan: Plan, model_dir: Path) -> dict[str, Any]:
    """Measure steps, fit a device to them, and say how far it is off.

    Args:
        device: a preset for this machine, for comparison; transfers are taken from it.
        plan: how much is measured.
        model_dir: of the decoder.
    """
    decoder = load_decoder(model_dir, _CPU, torch.float32, torch.float32)
    config = EngineConfig(pool_memory_bytes=_POOL_BYTES, max_step_tokens=_MAX_STEP_TOKENS)
    with closing(EngineLab(decoder, load_kernels(_CPU), config, seed=0)) as lab:
        steps = list(_measure(lab, decoder, plan))
    shape = decoder.config.shape
    for_fit = [step for index, step in enumerate(steps) if index % 3]
    fitted = fit_device(device, shape, _ELEM_BYTES, for_fit)
    model, preset = (CostModel(shape, _ELEM_BYTES, each) for each in (fitted, device))
    return {
        "fitted": asdict(fitted),
        "error_fitted": _errors(model, for_fit),
        "error_others": _errors(model, steps[::3]),
        "error_preset": _errors(preset, steps),
        "steps": [
            {
                **asdict(step.work),
                "measured_ms": round(step.seconds * 1e3, 2),
                "simulated_ms": round(model.step_s(step.work) * 1e3, 2),
            }
            for step in steps
        ],
        "machine": describe_machine("torch", "numba"),
    }


def _errors(model: CostModel, steps: Sequence[Measured]) -> dict[str, float]:
    """How far simulated steps are from measured ones, as a share of these."""
    errors = sorted(abs(model.step_s(step.work) / step.seconds - 1) for step in steps)
    return {"median": round(statistics.median(errors), 3), "largest": round(errors[-1], 3)}


def _measure(lab: EngineLab, decoder: Decoder, plan: Plan) -> Iterator[Measured]:
    ranks = uniform_ranks(decoder.config.shape, _RANK)
    elems = row_elems(decoder.config.shape, ranks)
    digests = [f"adapter{index}" for index in range(max(plan.num_sequences))]
    for digest in digests:
        lab.add_adapter(digest, ranks)
    lab.bring_in(digests)
    choices: Sequence[Callable[[int], list[str | None]]] = (
        lambda count: [None] * count,
        lambda count: [*digests[:count]],
    )
    lab.add_request(max(plan.num_prompt_tokens), 1, digests[0])  # whatever is done once only
    lab.finish()
    for choose in choices:
        for num_tokens in plan.num_prompt_tokens:
            yield _measure_prompt(lab, num_tokens, choose(1)[0], elems, plan.num_steps)
        for num_context_tokens in plan.num_context_tokens:
            for count in plan.num_sequences:
                yield _measure_decode(lab, num_context_tokens, choose(count), elems, plan.num_steps)


def _measure_prompt(
    lab: EngineLab, num_tokens: int, digest: str | None, elems: int, num_steps: int
) -> Measured:
    """Steps that compute a prompt."""
    times = []
    for _ in range(num_steps):
        lab.add_request(num_tokens, 1, digest)
        times.append(_timed_step(lab))
        lab.finish()
    work = StepWork(
        num_sequences=1,
        num_tokens=num_tokens,
        num_context_tokens=num_tokens,
        num_pairs=num_tokens**2,
    )
    return _measured(_with_adapters(work, [digest], num_tokens, elems), times)


def _measure_decode(
    lab: EngineLab,
    num_context_tokens: int,
    digests: Sequence[str | None],
    elems: int,
    num_steps: int,
) -> Measured:
    """Steps in which each sequence decodes a token, at about this context."""
    ids = [lab.add_request(num_context_tokens, num_steps + 64, digest) for digest in digests]
    lab.step_until(lambda: all(lab.num_tokens[each] >= 2 for each in ids))
    num_done = sum(lab.num_tokens[each] for each in ids)
    times = [_timed_step(lab) for _ in range(num_steps)]
    count = len(ids)
    num_context = count * num_context_tokens + num_done + count * num_steps // 2
    work = StepWork(
        num_sequences=count,
        num_tokens=count,
        num_context_tokens=num_context,
        num_pairs=num_context,
    )
    lab.abort(ids)
    return _measured(_with_adapters(work, digests, count, elems), times)


def _with_adapters(
    work: StepWork, digests: Sequence[str | None], num_tokens: int, elems: int
) -> StepWork:
    used = {digest for digest in digests if digest is not None}
    if not used:
        return work
    return replace(work, adapter_elems=len(used) * elems, lora_products=num_tokens * elems)


def _timed_step(lab: EngineLab) -> float:
    start_s = time.perf_counter()
    lab.step()
    return time.perf_counter() - start_s


def _measured(work: StepWork, times: Sequence[float]) -> Measured:
    return Measured(work, statistics.median(times))
