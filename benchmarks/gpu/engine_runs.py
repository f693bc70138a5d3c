"""What do adapters cost a step of the whole engine?

Owns: decode and prefill, with and without adapters, and the bytes of their floors.

The sides take turns within one engine, or between two that differ in an option; every figure is a
ratio of medians over the repeats.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.engine_lab import EngineLab
from benchmarks.gpu.engine_times import Digests, decode_step_s, in_turns, prefill_s
from benchmarks.gpu.lora_pool import row_elems, uniform_ranks
from benchmarks.gpu.lora_times import prefill_bytes
from benchmarks.gpu.model import Model
from benchmarks.gpu.options import Variant, make_lab, variants
from benchmarks.gpu.parts import Case
from benchmarks.gpu.results import Figure

_TAX_POINTS = 0.05  # that adapters may cost beyond their bytes
_PREFILL_TAX = 0.14
_BASE_SHARE = 0.75


def engine_cases(bench: Bench, model: Model) -> Iterator[Case]:
    """The base model beside its bytes, then adapters beside the base model."""
    plan = bench.plan.engine
    with closing(_lab(bench, model, Variant("default"), plan.pool_memory_bytes)) as lab:
        for num_seqs in plan.base_batches:
            name = f"base decode step, {num_seqs} sequences, share of the weight bandwidth"
            yield Case(name, partial(_base, bench, model, lab, name, num_seqs))
        for num_seqs, num_adapters in plan.lora_decodes:
            name = (
                f"decode tax, {num_seqs} sequences on {num_adapters} adapters of rank {plan.rank}"
            )
            ranks = [plan.rank] * num_adapters
            yield Case(name, partial(_decode_tax, bench, model, lab, name, num_seqs, ranks))
        mixed = [plan.mixed_ranks[i % len(plan.mixed_ranks)] for i in range(plan.num_mixed)]
        name = f"decode tax, {plan.num_mixed} adapters of ranks {min(mixed)} to {max(mixed)}"
        yield Case(name, partial(_decode_tax, bench, model, lab, name, plan.num_mixed, mixed))
        num_tokens, num_adapters = plan.prefill
        name = f"prefill tax, {num_tokens} tokens on {num_adapters} adapters of rank {plan.rank}"
        yield Case(name, partial(_prefill_tax, bench, lab, name))


def variant_cases(bench: Bench, model: Model) -> Iterator[Case]:
    """Decode steps with one option changed, over those of the default engine."""
    plan = bench.plan.engine
    batches = [*((num_seqs, 0) for num_seqs in plan.base_batches), *plan.lora_decodes]
    with closing(_lab(bench, model, Variant("default"), plan.compared_pool_bytes)) as default:
        for variant in variants(bench.device):
            with closing(_lab(bench, model, variant, plan.compared_pool_bytes)) as changed:
                for num_seqs, num_adapters in batches:
                    on = f"{num_adapters} adapters" if num_adapters else "the base model"
                    name = f"decode step, {num_seqs} sequences on {on}: {variant.name} over default"
                    sides = {"variant": changed, "default": default}
                    yield Case(name, partial(_variant, bench, sides, name, num_seqs, num_adapters))


def _lab(bench: Bench, model: Model, variant: Variant, pool_bytes: int | None) -> EngineLab:
    return make_lab(bench.plan, model.decoder, variant, pool_bytes, bench.seed)


def _base(bench: Bench, model: Model, lab: EngineLab, name: str, num_seqs: int) -> list[Figure]:
    step_s = in_turns(
        {"base": partial(decode_step_s, lab, [None] * num_seqs, bench.plan.engine)},
        bench.plan.engine.num_repeats,
    )
    floor_s = bench.floor_s(model.weight_bytes)
    figure = Figure(
        name=name,
        value=floor_s / statistics.median(step_s["base"]),
        floor=1.0,
        target=_BASE_SHARE,
        at_least=True,
        details={"step_ms": _ms(step_s), "weight_bytes": model.weight_bytes, **lab.describe()},
    )
    return [figure]


def _decode_tax(
    bench: Bench, model: Model, lab: EngineLab, name: str, num_seqs: int, ranks: Sequence[int]
) -> list[Figure]:
    """Sequences dealt out in turns to adapters of these ranks."""
    plan = bench.plan
    digests = _add_adapters(bench, lab, ranks)
    lab.bring_in(digests)
    of_seqs = [digests[i % len(digests)] for i in range(num_seqs)]
    step_s = in_turns(
        {
            "base": partial(decode_step_s, lab, [None] * num_seqs, plan.engine),
            "adapters": partial(decode_step_s, lab, of_seqs, plan.engine),
        },
        plan.engine.num_repeats,
    )
    shape = plan.config.shape
    num_elems = sum(row_elems(shape, uniform_ranks(shape, rank)) for rank in ranks)
    adapter_bytes = num_elems * plan.dtype.itemsize
    floor = adapter_bytes / model.weight_bytes
    figure = Figure(
        name=name,
        value=_tax(step_s),
        floor=floor,
        target=floor + _TAX_POINTS,
        details={"step_ms": _ms(step_s), "adapter_bytes": adapter_bytes},
    )
    return [figure]


def _prefill_tax(bench: Bench, lab: EngineLab, name: str) -> list[Figure]:
    plan, shape = bench.plan.engine, bench.plan.config.shape
    num_tokens, num_adapters = plan.prefill
    digests = _add_adapters(bench, lab, [plan.rank] * num_adapters)
    lab.bring_in(digests)
    times_s = in_turns(
        {
            "base": partial(prefill_s, lab, [None] * num_adapters, num_tokens),
            "adapters": partial(prefill_s, lab, digests, num_tokens),
        },
        plan.num_repeats,
    )
    num_bytes = prefill_bytes(shape, num_tokens, num_adapters, plan.rank, bench.plan.dtype)
    figure = Figure(
        name=name,
        value=_tax(times_s),
        floor=bench.floor_s(num_bytes) / statistics.median(times_s["base"]),
        target=_PREFILL_TAX,
        details={"prefill_ms": _ms(times_s), "lora_bytes": num_bytes},
    )
    return [figure]


def _variant(
    bench: Bench, labs: Mapping[str, EngineLab], name: str, num_seqs: int, num_adapters: int
) -> list[Figure]:
    """The step of the engine with the variant over that of the default one."""
    plan = bench.plan.engine
    sides = {}
    for side, lab in labs.items():
        digests = _add_adapters(bench, lab, [plan.rank] * num_adapters)
        lab.bring_in(digests)
        of_seqs: Digests = [digests[i % num_adapters] if digests else None for i in range(num_seqs)]
        sides[side] = partial(decode_step_s, lab, of_seqs, plan)
    step_s = in_turns(sides, plan.num_repeats)
    value = statistics.median(step_s["variant"]) / statistics.median(step_s["default"])
    return [Figure(name=name, value=value, details={"step_ms": _ms(step_s)})]


def _add_adapters(bench: Bench, lab: EngineLab, ranks: Sequence[int]) -> list[str]:
    """Distinct adapters of these ranks on all projections; their digests."""
    digests = []
    for i, rank in enumerate(ranks):
        digests.append(f"all-{rank}-{i}")
        lab.add_adapter(digests[-1], uniform_ranks(bench.plan.config.shape, rank))
    return digests


def _tax(times_s: Mapping[str, Sequence[float]]) -> float:
    return statistics.median(times_s["adapters"]) / statistics.median(times_s["base"]) - 1


def _ms(times_s: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [round(time_s * 1e3, 3) for time_s in each] for name, each in times_s.items()}
