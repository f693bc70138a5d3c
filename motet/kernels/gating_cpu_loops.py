"""The compiled loops that choose and weigh gates, float32.

Owns: which gates of a token are chosen and what they weigh, for gates of experts and of ranks.
Does not know: torch, nor how products come about and what follows from the choice
(`routing_cpu_loops.py`). A tensor comes in as the address of its first element, as in
`lora_cpu_loops.py`. The meaning is that of `gating.py`.
"""

from typing import Any

import numpy as np
from numba import int64, prange

from motet.kernels.compiled import compiled, floats, integers, ints
from motet.kernels.lora_cpu_loops import Pairs, Partial, Siblings, Tables
from motet.kernels.math_cpu import LOG2_E, exp2
from motet.kernels.types import ABSOLUTE, EQUAL, OF_ALL, OF_CHOSEN, SELF, Rule

PARALLEL_MIN_GATES = 8 * 1024
"""Below so many gates of all tokens the work takes less time than waking the other threads."""

_TOP_K, _SCORE, _SHARE = int(Rule.TOP_K), int(Rule.SCORE), int(Rule.SHARE)
_BY_RANK, _HAS_BIAS, _NUM_RULES = int(Rule.BY_RANK), int(Rule.HAS_BIAS), len(Rule)
_LOWEST = np.float32(-np.inf)

Sets = tuple[int, int, int, int, int, int, int, int]
"""Addresses of sets, expert_slots, rules, inverse_temperatures and thresholds, see
`types.RoutedTokens`; the number of sets; most experts of a set; most choices of a token."""

Usage = tuple[int, int]
"""Address of usage; gates of each token."""

Gating = tuple[Tables, Pairs, Siblings, Sets, Usage, Partial, int]
"""Pairs of the routed tokens with their routers, their sets, and their usage, which grows; where
the gates' products with the input are, which are lost; gates, and gated ranks, of which there can
be at most."""

Choices = tuple[int, int]
"""Addresses of experts, int32 [num_tokens, num_projections, most choices], ended by -1 where there
are fewer, and of their weights, float32 of the same shape."""


@compiled()
def num_routed(gates: Pairs) -> Any:
    """How many tokens are routed."""
    _, _, starts, _, num_segments, _, _ = gates
    return int64(ints(starts, num_segments + 1)[num_segments])


@compiled()
def _to_scores(products: Any, score: int) -> None:
    """What is compared of the products, in place."""
    if score == ABSOLUTE:
        for j in range(len(products)):
            products[j] = abs(products[j])
    elif score == SELF:
        squares = np.float32(0.0)
        for j in range(len(products)):
            squares += products[j] * products[j]
        norm = np.sqrt(squares)
        for j in range(len(products)):
            products[j] = products[j] / norm if norm > 0 else np.float32(0.0)


@compiled()
def choose_gates(
    products: Any,
    rule: Any,
    inverse_temperature: Any,
    threshold: Any,
    chosen: Any,
    weights: Any,
) -> int:
    """Choose gates of one token in one projection, and weigh them. See `gating.gate_weights`.

    Args:
        products: float32 [num_gates], the bias added. They are lost.
        rule: int32 [len(Rule)].
        inverse_temperature, threshold: of its set, float32.
        chosen: int32 [num_gates or more]. Receives the chosen gates, the highest score first.
        weights: float32, likewise; receives their weights.

    Returns:
        How many are chosen.
    """
    _to_scores(products, rule[_SCORE])
    share, scale = rule[_SHARE], inverse_temperature * LOG2_E
    highest = _LOWEST
    for j in range(len(products)):
        highest = max(highest, products[j])
    total = np.float32(0.0)
    if share == OF_ALL:
        for j in range(len(products)):
            total += exp2((products[j] - highest) * scale)
    num_chosen = 0
    for _ in range(min(int64(rule[_TOP_K]), len(products))):
        best, height = -1, _LOWEST
        for j in range(len(products)):
            if products[j] > height:
                best, height = j, products[j]
        if best < 0 or height < threshold:
            break
        products[best] = _LOWEST
        weight = np.float32(1.0)
        if share != EQUAL:
            weight = exp2((height - highest) * scale)
        if share == OF_CHOSEN:
            total += weight
        chosen[num_chosen], weights[num_chosen] = best, weight
        num_chosen += 1
    if share != EQUAL:
        for c in range(num_chosen):
            weights[c] /= total
    return num_chosen


@compiled()
def _table_entry(tables: Tables, siblings: Siblings, slot: int, s: int) -> Any:
    """Where the tables of run starts and ranks speak of a slot and a projection."""
    _, _, _, table_base, table_stride = tables
    return int64(slot * table_stride + table_base + ints(siblings[0] + 12 * s, 1)[0])


@compiled()
def _rank(tables: Tables, siblings: Siblings, slot: int, s: int) -> Any:
    return int64(ints(tables[2] + 4 * _table_entry(tables, siblings, slot, s), 1)[0])


@compiled()
def _set_of(sets: Sets, i: int) -> Any:
    """A routed token's set: its number, the slot of its first expert, and its rule."""
    number = int64(ints(sets[0] + 4 * i, 1)[0])
    first_slot = int64(ints(sets[1] + 4 * number * sets[6], 1)[0])
    return number, first_slot, ints(sets[2] + 4 * number * _NUM_RULES, _NUM_RULES)


@compiled()
def _gates_of(gating: Gating, i: int, s: int) -> Any:
    """The products of a routed token's gates in a projection.

    Where the score is `SELF` there are none; as many numbers as its expert has ranks.
    """
    tables, gates, siblings, sets, _, products, _ = gating
    _, slot, rule = _set_of(sets, i)
    num_gates = _rank(tables, siblings, slot, s)
    if rule[_SCORE] != SELF:
        router_slot = int64(ints(gates[1] + 4 * i, 1)[0])
        num_gates = max(_rank(tables, siblings, router_slot, s) - rule[_HAS_BIAS], 0)
    return floats(products[0], i * products[1] + s * products[2], num_gates)


@compiled()
def add_biases(gating: Gating, pool: int) -> None:
    """Add the gates' biases, with which the row after the gates begins, to the products."""
    tables, gates, siblings, sets, _, _, _ = gating
    for i in range(num_routed(gates)):
        _, _, rule = _set_of(sets, i)
        if rule[_HAS_BIAS] == 0:
            continue
        for s in range(siblings[1]):
            products = _gates_of(gating, i, s)
            if len(products) == 0:
                continue
            router_slot = int64(ints(gates[1] + 4 * i, 1)[0])
            entry = _table_entry(tables, siblings, router_slot, s)
            bias_row = int64(ints(tables[1] + 8 * entry, 1)[0]) + len(products)
            offset = integers(tables[0] + 8 * bias_row, 1)[0]
            biases = floats(pool, offset, len(products))
            for j in range(len(products)):
                products[j] += biases[j]


@compiled()
def _weigh(gating: Gating, products: Any, i: int, chosen: Any, weights: Any) -> int:
    """`choose_gates` of a routed token, noted in its usage."""
    _, _, _, sets, usage, _, _ = gating
    a_set, _, rule = _set_of(sets, i)
    num_chosen = choose_gates(
        products,
        rule,
        floats(sets[3], a_set, 1)[0],
        floats(sets[4], a_set, 1)[0],
        chosen,
        weights,
    )
    used = floats(usage[0], i * usage[1], usage[1])
    for c in range(num_chosen):
        used[chosen[c]] += weights[c]
    return num_chosen


@compiled()
def _choose_share(gating: Gating, choices: Choices, low: int, high: int) -> None:
    """Choices of the routed tokens low to high."""
    _, _, siblings, sets, _, _, most_gates = gating
    most_choices = sets[7]
    chosen = np.empty(most_gates, np.int32)
    weights = np.empty(most_gates, np.float32)
    for i in range(low, high):
        _, _, rule = _set_of(sets, i)
        for s in range(siblings[1]):
            products = _gates_of(gating, i, s)
            num_chosen = 0
            if rule[_BY_RANK] == 0:
                num_chosen = _weigh(gating, products, i, chosen, weights)
            elif len(products) > 0:
                chosen[0], weights[0], num_chosen = 0, 1.0, 1
            at = (i * siblings[1] + s) * most_choices
            experts = ints(choices[0] + 4 * at, most_choices)
            factors = floats(choices[1], at, most_choices)
            for c in range(num_chosen):
                experts[c], factors[c] = chosen[c], weights[c]
            if num_chosen < most_choices:
                experts[num_chosen] = -1


@compiled(parallel=True)
def choose(gating: Gating, choices: Choices, num_threads: int) -> None:
    """Choose experts for all routed tokens in each projection.

    Where ranks are gated, the only expert is chosen, with a weight of 1; the ranks are not looked
    at yet. Only experts are noted in the usage.

    Args:
        gating: with the gates' products, biases added.
        choices: is written.
        num_threads: shares that the work is divided into.
    """
    tables, gates, siblings, sets, usage, products, most_gates = gating
    num_tokens = num_routed(gates)
    if num_tokens * siblings[1] * most_gates < PARALLEL_MIN_GATES:
        _choose_share(gating, choices, 0, num_tokens)
    else:
        for t in prange(num_threads):
            low, high = num_tokens * t // num_threads, num_tokens * (t + 1) // num_threads
            parts = (tables, gates, siblings, sets, usage, products, most_gates)
            _choose_share(parts, choices, low, high)


@compiled()
def _gates_any_ranks(sets: Sets) -> bool:
    rules = ints(sets[2], sets[5] * _NUM_RULES)
    return bool((rules[_BY_RANK::_NUM_RULES] != 0).any())


@compiled()
def _gate_ranks_share(gating: Gating, sources: int, v: Partial, low: int, high: int) -> None:
    """Gate the ranks of the pairs low to high."""
    tables, _, siblings, sets, _, _, most_gates = gating
    chosen = np.empty(most_gates, np.int32)
    weights = np.empty(most_gates, np.float32)
    kept = np.empty(most_gates, np.float32)
    for p in range(low, high):
        source = int64(ints(sources + 4 * p, 1)[0])
        i, s = source // siblings[1], source % siblings[1]
        _, slot, rule = _set_of(sets, i)
        if rule[_BY_RANK] == 0:
            continue
        rank = _rank(tables, siblings, slot, s)
        v_row = floats(v[0], p * v[1] + s * v[2], rank)
        for j in range(rank):
            kept[j] = v_row[j]
        products = v_row if rule[_SCORE] == SELF else _gates_of(gating, i, s)
        num_chosen = _weigh(gating, products, i, chosen, weights)
        for j in range(rank):
            v_row[j] = 0.0
        for c in range(num_chosen):
            if chosen[c] < rank:
                v_row[chosen[c]] = kept[chosen[c]] * weights[c]


@compiled(parallel=True)
def gate_ranks(gating: Gating, sources: int, num_pairs: int, v: Partial, num_threads: int) -> None:
    """v[p, s, j] *= w[j], 0 for ranks that are not chosen, where a set gates ranks.

    Args:
        gating: with the gates' products, biases added.
        sources: address of int32 [num_pairs], see `routing_cpu_loops.Laid`.
        num_pairs: how many.
        v: A x of the pairs.
        num_threads: shares that the work is divided into.
    """
    tables, gates, siblings, sets, usage, products, most_gates = gating
    if not _gates_any_ranks(sets):
        return
    if num_pairs * most_gates < PARALLEL_MIN_GATES:
        _gate_ranks_share(gating, sources, v, 0, num_pairs)
    else:
        for t in prange(num_threads):
            low, high = num_pairs * t // num_threads, num_pairs * (t + 1) // num_threads
            parts = (tables, gates, siblings, sets, usage, products, most_gates)
            _gate_ranks_share(parts, sources, v, low, high)
