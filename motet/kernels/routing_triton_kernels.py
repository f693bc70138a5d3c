# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The device code behind `routing_triton.py`: rows of a set in one stack, and gates into weights.

Owns: what one program computes; the meaning of a rule is in `gating.py`.
Does not know: torch, grids, block sizes.

Arguments that several kernels take: `pool` and the tables (`row_offsets`, `run_starts`, `ranks`) as
in `types.py`; `router_slots`, `sets`, `expert_slots`, `rules`, `inverse_temperatures`, `thresholds`
and `usage` as in `RoutedTokens`, `router_slots` being the slots of its `gates`; `siblings`, int32
[NUM_SIBLINGS, 3]: module, out_start, out_features. Those of a stack (`rows`, `heights`, `owners`,
`gates`) are explained in `routing_triton_stack.py`. `weights` is float32
[num_tokens, NUM_SIBLINGS, most_gates]: those of the gates, 0 for gates that are not chosen.
"""

import triton
import triton.language as tl

from motet.kernels import types
from motet.kernels.lora_triton_kernels import find_run
from motet.kernels.types import Rule

_ABSOLUTE = tl.constexpr(types.ABSOLUTE)
_SELF = tl.constexpr(types.SELF)
_OF_ALL = tl.constexpr(types.OF_ALL)
_EQUAL = tl.constexpr(types.EQUAL)

_TOP_K = tl.constexpr(int(Rule.TOP_K))
_SCORE = tl.constexpr(int(Rule.SCORE))
_SHARE = tl.constexpr(int(Rule.SHARE))
_BY_RANK = tl.constexpr(int(Rule.BY_RANK))
_HAS_BIAS = tl.constexpr(int(Rule.HAS_BIAS))
_NUM_RULES = tl.constexpr(len(Rule))

_UNSPECIALIZED = ["layer", "num_tokens"]
"""Arguments whose value must not cause another compilation."""


@triton.jit
def _router_of(a_set, sets, router_slots, num_tokens, BLOCK_N: tl.constexpr):
    """The slot of a set's router, from any of its tokens; -1 if it has none in this batch."""
    slot = -1
    for start in range(0, num_tokens, BLOCK_N):
        i = start + tl.arange(0, BLOCK_N)
        is_token = i < num_tokens
        is_here = tl.load(sets + i, mask=is_token, other=-1) == a_set
        slots = tl.load(router_slots + i, mask=is_token, other=-1)
        slot = tl.maximum(slot, tl.max(tl.where(is_here, slots, -1), 0))
    return slot


@triton.jit
def stack_rows(
    row_offsets,
    run_starts,
    ranks,
    sets,
    router_slots,
    expert_slots,
    rules,
    siblings,
    rows,
    stack_starts,
    a_heights,
    b_heights,
    owners,
    gates,
    layer,
    num_layers,
    num_modules,
    num_tokens,
    most_experts,
    width,
    NUM_SIBLINGS: tl.constexpr,
    WITH_EXPERTS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: the rows of one expert, or of the gates, of one set in one projection.

    Grid: (num_sets * NUM_SIBLINGS, experts + 1); the last of the second axis has the gates, and
    what is said of the whole stack. BLOCK_J is at least any rank.
    """
    stack, e = tl.program_id(0), tl.program_id(1)
    a_set, s = stack // NUM_SIBLINGS, stack % NUM_SIBLINGS
    router = _router_of(a_set, sets, router_slots, num_tokens, BLOCK_N)
    if router < 0:
        return
    module = tl.load(siblings + 3 * s)
    rule = rules + a_set * _NUM_RULES
    gate_run, gate_rank = find_run(
        run_starts, ranks, router, layer, num_layers, num_modules, module, 0
    )
    is_self = tl.load(rule + _SCORE) == _SELF
    num_gates = tl.maximum(gate_rank - tl.load(rule + _HAS_BIAS), 0)
    num_gates = tl.where(is_self, 0, num_gates)
    num_experts = tl.where(is_self, 1, 0)
    if WITH_EXPERTS:
        num_gated = tl.where(tl.load(rule + _BY_RANK) != 0, tl.minimum(num_gates, 1), num_gates)
        num_experts = tl.where(is_self, 1, tl.minimum(num_gated, most_experts))
    expert = tl.arange(0, BLOCK_E)
    is_expert = expert < num_experts
    slots = tl.load(expert_slots + a_set * most_experts + expert, mask=is_expert, other=0)
    entries = (slots.to(tl.int64) * num_layers + layer) * num_modules + module
    heights = tl.load(ranks + entries, mask=is_expert, other=0)
    height = tl.sum(heights, 0)
    j = tl.arange(0, BLOCK_J)
    a_rows = rows + stack.to(tl.int64) * 2 * width
    b_rows = a_rows + width
    if e < tl.num_programs(1) - 1:
        start = tl.sum(tl.where(expert < e, heights, 0), 0)
        rank = tl.sum(tl.where(expert == e, heights, 0), 0)
        entry = tl.sum(tl.where(expert == e, entries, 0), 0)
        is_row = j < rank
        a_run, b_run = tl.load(run_starts + 2 * entry), tl.load(run_starts + 2 * entry + 1)
        tl.store(a_rows + start + j, tl.load(row_offsets + a_run + j, mask=is_row), mask=is_row)
        tl.store(b_rows + start + j, tl.load(row_offsets + b_run + j, mask=is_row), mask=is_row)
        tl.store(owners + stack * width + start + j, tl.zeros_like(j) + e, mask=is_row)
    else:
        is_row = j < tl.where(is_self, 0, gate_rank)  # with the biases, above what is multiplied
        gate_rows = tl.load(row_offsets + gate_run + j, mask=is_row)
        tl.store(a_rows + height + j, gate_rows, mask=is_row)
        tl.store(stack_starts + 2 * stack, 2 * stack * width)
        tl.store(stack_starts + 2 * stack + 1, (2 * stack + 1) * width)
        tl.store(a_heights + stack, height + num_gates)
        tl.store(b_heights + stack, height)
        tl.store(gates + 2 * stack, tl.where(is_self, 0, height))
        tl.store(gates + 2 * stack + 1, tl.where(is_self, height, num_gates))


@triton.jit
def _scores(products, is_gate, score):
    """What gates are compared by."""
    products = tl.where(is_gate, products, 0.0)
    norm = tl.sqrt(tl.sum(products * products, 1))[:, None]
    normed = tl.where(norm > 0, products / tl.where(norm > 0, norm, 1.0), 0.0)
    scores = tl.where(score == _ABSOLUTE, tl.abs(products), products)
    return tl.where(score == _SELF, normed, scores)


@triton.jit
def _weigh_scores(
    scores,
    is_gate,
    top_k,
    share,
    inverse_temperature,
    threshold,
    BLOCK_G: tl.constexpr,
):
    """Which gates are chosen, and the weights of all: `gating.gate_weights` along the last axis."""
    gate = tl.arange(0, BLOCK_G)[None, :]
    left = tl.where(is_gate, scores, -float("inf"))
    for _ in range(top_k):
        best = tl.max(left, 1)[:, None]
        is_best = (left == best) & (left > -float("inf"))
        first = tl.min(tl.where(is_best, gate, BLOCK_G), 1)[:, None]
        left = tl.where(gate == first, -float("inf"), left)
    is_chosen = is_gate & (left == -float("inf")) & (scores >= threshold)
    in_sum = tl.where(share == _OF_ALL, is_gate, is_chosen)
    exponents = tl.where(in_sum, scores * inverse_temperature, -float("inf"))
    top = tl.max(exponents, 1)[:, None]
    # With nothing to sum the top is no number to subtract.
    powers = tl.exp(exponents - tl.where(top > -float("inf"), top, 0.0))
    total = tl.sum(powers, 1)[:, None]
    softmax = powers / tl.where(total > 0, total, 1.0)
    return is_chosen, tl.where(is_chosen, tl.where(share == _EQUAL, 1.0, softmax), 0.0)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def weigh_gates(
    v,
    pool,
    rows,
    gates,
    sets,
    expert_slots,
    rules,
    inverse_temperatures,
    thresholds,
    usage,
    weights,
    choice_slots,
    choice_weights,
    choice_masks,
    choice_keys,
    num_tokens,
    num_sets,
    most_experts,
    most_gates,
    num_rounds,
    width,
    NUM_SIBLINGS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """One program: one token in all projections, its gates' products in `v`, float32
    [NUM_PARTS, num_tokens, NUM_SIBLINGS, width], at the columns that `gates` says.

    Writes `weights`, adds them to `usage`, and lists the choices, of which see
    `routing_triton_pairs.py`, if there is a list. Grid: (num_tokens,).
    """
    i = tl.program_id(0)
    a_set = tl.load(sets + i)
    rule = rules + a_set * _NUM_RULES
    s = tl.arange(0, BLOCK_S)
    is_s = s < NUM_SIBLINGS
    stack = a_set * NUM_SIBLINGS + s
    start = tl.load(gates + 2 * stack, mask=is_s, other=0)
    count = tl.minimum(tl.load(gates + 2 * stack + 1, mask=is_s, other=0), most_gates)
    gate = tl.arange(0, BLOCK_G)[None, :]
    is_gate = gate < count[:, None]
    products = tl.zeros([BLOCK_S, BLOCK_G], tl.float32)
    for part in tl.static_range(NUM_PARTS):
        row = ((part * num_tokens + i).to(tl.int64) * NUM_SIBLINGS + s) * width + start
        products += tl.load(v + row[:, None] + gate, mask=is_gate, other=0.0)
    if tl.load(rule + _HAS_BIAS) != 0:
        bias = rows + stack.to(tl.int64) * 2 * width + start + count
        offsets = tl.load(bias, mask=is_s & (count > 0), other=0)
        products += tl.load(pool + offsets[:, None] + gate, mask=is_gate, other=0.0).to(tl.float32)
    is_chosen, each_weight = _weigh_scores(
        _scores(products, is_gate, tl.load(rule + _SCORE)),
        is_gate,
        tl.minimum(tl.load(rule + _TOP_K), most_gates),
        tl.load(rule + _SHARE),
        tl.load(inverse_temperatures + a_set),
        tl.load(thresholds + a_set),
        BLOCK_G,
    )
    is_column = is_s[:, None] & (gate < most_gates)
    row = (i.to(tl.int64) * NUM_SIBLINGS + s) * most_gates
    tl.store(weights + row[:, None] + gate, each_weight, mask=is_column)
    in_use = tl.arange(0, BLOCK_G)
    row_of_usage = usage + i.to(tl.int64) * most_gates + in_use
    is_used = in_use < most_gates
    before = tl.load(row_of_usage, mask=is_used, other=0.0)
    tl.store(row_of_usage, before + tl.sum(each_weight, 0), mask=is_used)
    if choice_slots is not None:
        by_rank = tl.load(rule + _BY_RANK) != 0
        # A set that gates ranks has its only expert wherever it has gates, with a weight of 1.
        is_only = (gate == 0) & is_gate
        open_gates = tl.where(by_rank, is_only, is_chosen).to(tl.int32)
        each_weight = tl.where(by_rank, 1.0, each_weight)
        for r in range(num_rounds):
            expert = tl.min(tl.where(open_gates != 0, gate, BLOCK_G), 1)
            is_here = gate == expert[:, None]
            has_choice = is_s & (expert < most_experts)
            index = a_set * most_experts + expert
            slot = tl.load(expert_slots + index, mask=has_choice, other=0)
            pair = (r * NUM_SIBLINGS + s) * num_tokens + i
            tl.store(choice_slots + pair, slot, mask=is_s)
            weight = tl.sum(tl.where(is_here, each_weight, 0.0), 1)
            tl.store(choice_weights + pair, weight, mask=is_s)
            tl.store(choice_masks + pair, tl.where(has_choice, 1, 0) << s, mask=is_s)
            # Those without a choice come last in their round.
            num_experts = num_sets * most_experts
            entry = r * (num_experts + 1) + tl.where(has_choice, index, num_experts)
            tl.store(choice_keys + pair, entry * NUM_SIBLINGS + s, mask=is_s)
            open_gates = tl.where(is_here, 0, open_gates)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def weigh_stack(
    v,
    weighted,
    sets,
    rules,
    b_heights,
    owners,
    weights,
    num_tokens,
    most_gates,
    width,
    NUM_SIBLINGS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """One program: BLOCK_J columns of one token in one projection, `weighted[0, i, s, j]` =
    weights[i, s, gate of j] * sum of the parts of v[:, i, s, j], both [parts, num_tokens,
    NUM_SIBLINGS, width]. Grid: (num_tokens * NUM_SIBLINGS, blocks).
    """
    row = tl.program_id(0)
    a_set = tl.load(sets + row // NUM_SIBLINGS)
    stack = a_set * NUM_SIBLINGS + row % NUM_SIBLINGS
    height = tl.load(b_heights + stack)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    is_row = j < height
    gate = tl.load(owners + stack * width + j, mask=is_row, other=0)
    if tl.load(rules + a_set * _NUM_RULES + _BY_RANK) != 0:
        gate = j
    is_gate = is_row & (gate < most_gates)
    weight = tl.load(weights + row.to(tl.int64) * most_gates + gate, mask=is_gate, other=0.0)
    total = tl.zeros([BLOCK_J], tl.float32)
    for part in tl.static_range(NUM_PARTS):
        v_row = (part * num_tokens * NUM_SIBLINGS + row).to(tl.int64) * width
        total += tl.load(v + v_row + j, mask=is_row, other=0.0)
    tl.store(weighted + row.to(tl.int64) * width + j, weight * total, mask=is_row)


@triton.jit(do_not_specialize=["num_tokens", "num_pairs"])
def weigh_ranks(
    v,
    sets,
    rules,
    weights,
    order,
    num_tokens,
    num_pairs,
    most_gates,
    max_rank,
    NUM_SIBLINGS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """One program: v[:, p, s, j] *= weights[i, s, j] for one pair of the first round, if its set
    gates ranks. `order` says of each pair where it stood in the list of choices; None, there.
    Grid: (num_tokens * NUM_SIBLINGS,).
    """
    pair = tl.program_id(0)
    choice = pair
    if order is not None:
        choice = tl.load(order + pair).to(tl.int32)
    s, i = choice // num_tokens, choice % num_tokens
    if tl.load(rules + tl.load(sets + i) * _NUM_RULES + _BY_RANK) == 0:
        return
    j = tl.arange(0, BLOCK_J)
    row = (i.to(tl.int64) * NUM_SIBLINGS + s) * most_gates
    weight = tl.load(weights + row + j, mask=j < most_gates, other=0.0)
    for part in tl.static_range(NUM_PARTS):
        v_row = ((part * num_pairs + pair).to(tl.int64) * NUM_SIBLINGS + s) * max_rank
        block = v + v_row + j
        products = tl.load(block, mask=j < max_rank, other=0.0)
        tl.store(block, products * weight, mask=j < max_rank)
