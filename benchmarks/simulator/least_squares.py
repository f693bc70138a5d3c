"""A device's constants from measured steps.

Owns: the fit.
Does not know: how steps were measured.

The cost model is a sum of amounts of work, each over a rate, but for one choice: weights are read,
or multiplied with many tokens, whichever takes longer. So it is linear in the inverse rates once
that choice is made for each step. It is made by the rates that were last found, and the rates are
found by least squares of relative errors, until nothing changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.simulator.cost_model import StepWork
from benchmarks.simulator.devices import Device
from benchmarks.simulator.models import kv_elems, step_elems
from motet.core.shape import ModelShape

_MAX_ROUNDS = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What a step had to do, and how long it took [s]."""

    work: StepWork
    seconds: float


def fit_device(
    device: Device, shape: ModelShape, elem_bytes: int, steps: Sequence[Measured]
) -> Device:
    """The device whose simulated steps are nearest to these.

    Args:
        device: it has one GPU or none; what is not fitted is taken from it.
        shape, elem_bytes: what was measured.
        steps: at least as many as there are constants.
    """
    seconds = np.array([step.seconds for step in steps])
    # Whether a step reads its weights, rather than multiplies: at first, if it has few tokens.
    reads = np.array([step.work.num_tokens <= 16 for step in steps])
    for _ in range(_MAX_ROUNDS):
        inverses = _solve(_amounts(shape, elem_bytes, steps, reads), seconds)
        dense = _dense_amounts(shape, elem_bytes, steps)
        now_reads = dense[:, 0] * inverses[0] >= dense[:, 1] * inverses[1]
        if np.array_equal(now_reads, reads):
            break
        reads = now_reads
    weights, flops, kv, adapters, step_s, sequence_s, lora_layer_s = (float(x) for x in inverses)
    return replace(
        device,
        weights_bytes_per_s=_rate(weights),
        flops_per_s=_rate(flops),
        kv_bytes_per_s=_rate(kv),
        adapter_bytes_per_s=_rate(adapters),
        step_s=step_s,
        sequence_s=sequence_s,
        lora_layer_s=lora_layer_s,
    )


def _dense_amounts(shape: ModelShape, elem_bytes: int, steps: Sequence[Measured]) -> Floats:
    """Bytes of the weights, and operations with them; float64 [num_steps, 2]."""
    elems = step_elems(shape)
    return np.array([[elems * elem_bytes, 2.0 * elems * step.work.num_tokens] for step in steps])


def _amounts(
    shape: ModelShape, elem_bytes: int, steps: Sequence[Measured], reads: npt.NDArray[np.bool_]
) -> Floats:
    """What each constant's inverse is multiplied with, as `cost_model.py` says; [num_steps, 7]."""
    dense = _dense_amounts(shape, elem_bytes, steps)
    rows = []
    for step, (weight_bytes, dense_flops), only_reads in zip(steps, dense, reads, strict=True):
        work = step.work
        other_flops = 4 * shape.num_layers * shape.q_size * work.num_pairs + 2 * work.lora_products
        rows.append(
            [
                weight_bytes if only_reads else 0.0,
                other_flops + (0.0 if only_reads else dense_flops),
                work.num_context_tokens * kv_elems(shape) * elem_bytes,
                work.adapter_elems * elem_bytes,
                1.0,
                work.num_sequences,
                shape.num_layers if work.adapter_elems else 0.0,
            ]
        )
    return np.array(rows, dtype=np.float64)


def _solve(amounts: Floats, seconds: Floats) -> Floats:
    """Non-negative inverses with the least squares of relative errors.

    A constant that comes out negative is taken to be 0, the most negative one first, and the others
    are found again.
    """
    relative = amounts / seconds[:, None]
    scales = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    active = list(range(amounts.shape[1]))
    found = np.zeros(amounts.shape[1])
    while active:
        solved = np.linalg.lstsq(
            relative[:, active] / scales[active], np.ones(len(seconds)), rcond=None
        )[0]
        if (solved >= 0).all():
            found[active] = solved / scales[active]
            break
        del active[int(np.argmin(solved))]
    return found


def _rate(inverse: float) -> float:
    """A rate that is too high to be seen is taken to be a thousand times that of anything real."""
    return 1 / inverse if inverse > 0 else 1e18
