"""Tenants that share a server: how much each asks for, for judging who gets what.

Owns: one stream of requests for each tenant, and how they are put together.
Does not know: keys and weights of a server, nor what is fair.

Each tenant's requests are drawn from a seed of its own. So they are the same whatever the others
do: with the others' rates at 0 they are what the tenant is served when it is alone.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from motet.bench.kind import Drawn, Spec
from motet.bench.load import (
    Adapters,
    Cv,
    DurationS,
    Exponent,
    NumAdapters,
    OutputTokens,
    PromptTokens,
    RankCycle,
    check_count,
    check_range,
    draw_arrivals,
    draw_lengths,
    in_order,
    scale_lengths,
)
from motet.bench.popularity import draw_zipf
from motet.bench.workload import WorkRequest

TenantName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Rate = Annotated[float, Meta(ge=0, le=1e6)]
Scale = Annotated[float, Meta(gt=0, le=100)]
Weight = Annotated[float, Meta(gt=0, le=1e6)]


class TenantsSpec(Spec, frozen=True, kw_only=True):
    """Parameters of tenants. A list has a value for each of them, or one for all."""

    tenants: Annotated[
        tuple[TenantName, ...], Meta(min_length=1, max_length=10_000, description="their names")
    ] = ("flood", "polite")
    rates_per_s: Annotated[
        tuple[Rate, ...], Meta(min_length=1, description="requests a second of each; 0 is silent")
    ] = (20.0, 1.0)
    duration_s: DurationS = 120.0
    cv: Cv = 1.0
    prompt_tokens: PromptTokens = (8, 512)
    output_tokens: OutputTokens = (8, 512)
    length_scales: Annotated[
        tuple[Scale, ...], Meta(min_length=1, description="multiplies the lengths of each tenant")
    ] = (1.0,)
    weights: Annotated[
        tuple[Weight, ...],
        Meta(
            min_length=1,
            description="what each is owed, for whoever judges fairness; servers know it from keys",
        ),
    ] = (1.0,)
    num_adapters: NumAdapters = 4
    exponent: Exponent = 0.0
    rank_cycle: RankCycle = (16,)

    def __post_init__(self) -> None:
        if len(set(self.tenants)) < len(self.tenants):
            raise ValueError(f"tenants are {', '.join(self.tenants)}: expected each once.")
        check_range("prompt_tokens", self.prompt_tokens)
        check_range("output_tokens", self.output_tokens)
        check_count(sum(int(rate * self.duration_s) for rate in self.rates))
        self._each("length_scales", self.length_scales)
        self._each("weights", self.weights)

    @property
    def rates(self) -> Sequence[float]:
        """For each tenant."""
        return self._each("rates_per_s", self.rates_per_s)

    @property
    def scales(self) -> Sequence[float]:
        """For each tenant."""
        return self._each("length_scales", self.length_scales)

    def _each(self, name: str, values: Sequence[float]) -> Sequence[float]:
        if len(values) == 1:
            return [values[0]] * len(self.tenants)
        if len(values) != len(self.tenants):
            raise ValueError(
                f"{name} has {len(values)} values: expected one, or one for each of the "
                f"{len(self.tenants)} tenants."
            )
        return values


def draw_tenants_workload(spec: TenantsSpec, seed: int) -> Drawn:
    """All tenants' requests in the order of their arrival; tenant t's adapters are called t-i."""
    drawn = [
        _draw_tenant(spec, seed, place, tenant, rate_per_s, scale)
        for place, (tenant, rate_per_s, scale) in enumerate(
            zip(spec.tenants, spec.rates, spec.scales, strict=True)
        )
        if rate_per_s > 0
    ]
    return Drawn(
        requests=in_order(request for each in drawn for request in each.requests),
        ranks={name: rank for each in drawn for name, rank in each.ranks.items()},
    )


def _draw_tenant(
    spec: TenantsSpec, seed: int, place: int, tenant: str, rate_per_s: float, scale: float
) -> Drawn:
    """One tenant's requests; of all tenants' requests none has the index of another."""
    rng = np.random.RandomState([seed, place])
    adapters = Adapters(tenant, spec.rank_cycle)
    count = int(rate_per_s * spec.duration_s)
    indices = draw_zipf(rng, spec.num_adapters, spec.exponent, count).tolist()
    columns = zip(
        indices,
        draw_arrivals(rng, count, rate_per_s, spec.cv),
        draw_lengths(rng, scale_lengths(spec.prompt_tokens, scale), count),
        draw_lengths(rng, scale_lengths(spec.output_tokens, scale), count),
        strict=True,
    )
    requests = [
        WorkRequest(
            index=number * len(spec.tenants) + place,
            arrival_s=arrival_s,
            adapter=adapters.name(adapter),
            num_prompt_tokens=num_prompt_tokens,
            num_output_tokens=num_output_tokens,
            stream=number * len(spec.tenants) + place,
            tenant=tenant,
        )
        for number, (adapter, arrival_s, num_prompt_tokens, num_output_tokens) in enumerate(columns)
    ]
    return Drawn(requests=requests, ranks=adapters.ranks(indices))
