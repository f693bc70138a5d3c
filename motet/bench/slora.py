"""The workloads that S-LoRA was judged by: its settings, and its suites by name.

Owns: which ranks a setting has, and the parameters of every row of `benchmarks/exp_suite.py`.
Does not know: the generator's algorithm (`trace.py`).

Sheng et al., "S-LoRA: Serving Thousands of Concurrent LoRA Adapters", MLSys 2024. Its generator
has traps, each of which is an option here: what alpha means, prompts that are one word repeated,
and a suite in which alpha and cv have changed places.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from motet.bench.kind import Drawn, Sweep, WorkloadKind
from motet.bench.load import Adapters, Load
from motet.bench.trace import TraceSpec, draw_trace
from motet.bench.workload import WorkRequest


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A base model and the ranks of its adapters: adapter i has the i-th, round and round."""

    base: str
    hidden_size: int
    ranks: tuple[int, ...]


# In the order in which S-LoRA goes round them. S3 is in its repository alone.
SETTINGS: Mapping[str, Setting] = {
    "S1": Setting(base="Llama-7B", hidden_size=4096, ranks=(8,)),
    "S2": Setting(base="Llama-7B", hidden_size=4096, ranks=(64, 32, 16, 8)),
    "S3": Setting(base="Llama-13B", hidden_size=5120, ranks=(16,)),
    "S4": Setting(base="Llama-13B", hidden_size=5120, ranks=(64, 32, 16)),
    "S5": Setting(base="Llama-30B", hidden_size=7168, ranks=(32,)),
    "S6": Setting(base="Llama-70B", hidden_size=8192, ranks=(64,)),
}


class SloraSpec(Load, frozen=True, kw_only=True):
    """Parameters of S-LoRA's generator."""

    setting: Annotated[
        Literal["S1", "S2", "S3", "S4", "S5", "S6"],
        Meta(description="names adapters and gives their ranks: s2-5 has the sixth of S2, in turn"),
    ] = "S2"
    num_adapters: Annotated[
        int, Meta(ge=0, le=10_000_000, description="how many there are; 0 asks the base model")
    ] = 200
    alpha: Annotated[
        float, Meta(gt=0, le=10, description="skew of their popularity; see alpha_means")
    ] = 1.0
    alpha_means: Annotated[
        Literal["power", "zipf"],
        Meta(
            description="power, as in S-LoRA's code: the first share q of the adapters gets "
            "q ** alpha of the requests, so 1 is even and less is skewed; zipf: adapter i, from "
            "1 on, gets them in proportion to 1 / i ** alpha, so more is more skewed"
        ),
    ] = "power"
    swap_alpha_cv: Annotated[
        bool,
        Meta(description="draw with alpha as cv and cv as alpha, as the suite of clusters by cv"),
    ] = False
    prompts: Annotated[
        Literal["random", "hello"],
        Meta(
            description="hello, as in S-LoRA: each prompt is the beginning of every longer one, "
            "which prefix caches know by heart; random: each is its own"
        ),
    ] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.swap_alpha_cv and not 0 < self.cv <= 10:
            raise ValueError(f"cv is {self.cv:g}: with swap_alpha_cv expected above 0, up to 10.")


def draw_slora_workload(spec: SloraSpec, seed: int) -> Drawn:
    """Requests of S-LoRA's generator; with seed 42 they are the very ones of its evaluation."""
    setting = SETTINGS[spec.setting]
    adapters = Adapters(spec.setting.lower(), setting.ranks)
    trace = draw_trace(_trace_spec(spec, seed))
    requests = [
        WorkRequest(
            index=index,
            arrival_s=round(each.arrival_s, 6),
            adapter=adapters.name(each.adapter_index) if spec.num_adapters else None,
            num_prompt_tokens=each.num_prompt_tokens,
            num_output_tokens=each.num_output_tokens,
            stream=index if spec.prompts == "random" else 0,
        )
        for index, each in enumerate(trace)
    ]
    indices = (each.adapter_index for each in trace) if spec.num_adapters else ()
    return Drawn(requests=requests, ranks=adapters.ranks(indices))


def _trace_spec(spec: SloraSpec, seed: int) -> TraceSpec:
    alpha, cv = (spec.cv, spec.alpha) if spec.swap_alpha_cv else (spec.alpha, spec.cv)
    return TraceSpec(
        num_adapters=max(1, spec.num_adapters),
        rate_per_s=spec.rate_per_s,
        duration_s=spec.duration_s,
        prompt_tokens=spec.scaled(spec.prompt_tokens),
        output_tokens=spec.scaled(spec.output_tokens),
        alpha=alpha,
        cv=cv,
        seed=seed,
        is_zipf=spec.alpha_means == "zipf",
    )


def _suite(
    name: str, description: str, setting: str, sweep: Sweep, **others: Any
) -> WorkloadKind[SloraSpec]:
    """A row of S-LoRA's suites; the parameter that it sweeps stands at its last value."""
    values = ", ".join(f"{value:g}" for value in sweep.values)
    return WorkloadKind(
        name=f"slora-{name}",
        description=f"S-LoRA: {description}; {sweep.parameter} {values}",
        spec_type=SloraSpec,
        draw=draw_slora_workload,
        defaults={"setting": setting, **others, sweep.parameter: sweep.values[-1]},
        sweep=sweep,
    )


def _by_adapters(*values: int) -> Sweep:
    return Sweep(parameter="num_adapters", values=values)


_BY_ALPHA = Sweep(parameter="alpha", values=(0.1, 0.3, 0.6, 1))
_BY_CV = Sweep(parameter="cv", values=(1, 2, 4, 6, 8))


def _by_rate(*values: float) -> Sweep:
    return Sweep(parameter="rate_per_s", values=values)


SLORA_KINDS = (
    WorkloadKind(
        name="slora",
        description="S-LoRA's generator with its defaults (seed 42 there)",
        spec_type=SloraSpec,
        draw=draw_slora_workload,
    ),
    _suite("a10g-num-adapter", "A10G", "S2", _by_adapters(1, 20, 50, 100, 200)),
    _suite("a10g-alpha", "A10G", "S2", _BY_ALPHA),
    _suite("a10g-cv", "A10G", "S2", _BY_CV),
    _suite("a10g-req-rate", "A10G", "S2", _by_rate(1, 1.5, 2, 2.5)),
    _suite("a100-40-num-adapter", "A100-40", "S4", _by_adapters(0, 1, 20, 50, 100, 200)),
    _suite(
        "a100-80-s2-num-adapter", "A100-80", "S2", _by_adapters(1, 20, 50, 100, 200), rate_per_s=10
    ),
    _suite(
        "a100-80-s4-num-adapter", "A100-80", "S4", _by_adapters(0, 1, 100, 200, 400), rate_per_s=6
    ),
    _suite("a100-80-s4-req-rate", "A100-80", "S4", _by_rate(1, 2, 4, 6, 8), num_adapters=400),
    _suite("a100-80-s4-cv", "A100-80", "S4", _BY_CV, num_adapters=400, rate_per_s=6),
    _suite(
        "a100-80-table",
        "Table 3, A100-80",
        "S2",
        _by_adapters(2, 5, 100, 1000, 2000),
        rate_per_s=10,
        duration_s=120,
    ),
    _suite(
        "ablation-no-mem",
        "unified paging on and off",
        "S2",
        _by_adapters(1, 10, 25, 50, 100, 200),
        rate_per_s=2.5,
    ),
    _suite(
        "ablation-cluster",
        "clusters of adapters",
        "S2",
        _BY_ALPHA,
        num_adapters=32,
        duration_s=120,
    ),
    _suite(
        "ablation-cluster-cv",
        "clusters of adapters",
        "S2",
        _BY_CV,
        num_adapters=32,
        duration_s=120,
    ),
    _suite(
        "ablation-merge",
        "batches against merge-and-swap; alpha and cv vary too",
        "S2",
        _by_adapters(1, 2, 5),
        duration_s=60,
    ),
    _suite(
        "breakdown-h100",
        "H100",
        "S2",
        _by_adapters(1, 20, 50, 100, 200, 500, 1000),
        alpha=0.8,
        rate_per_s=20,
        duration_s=60,
    ),
)
