"""Runs a decoder over a pool by hand: base, plain, composed and routed sequences in one batch.

Owns: where rank rows and KV lie in the pool, and the pairs and routed tokens of a batch.
Does not know: an engine, nor what the logits should be.

Whatever is not written is NaN, so that a kernel that reads it shows. Pages are dealt in a shuffled
order. `engine/` does the same for a server, with numpy and without loops over tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.routing_cases import Adapter, Gates, RoutedCase
from motet.core.routing import RoutingRule, Score, Share
from motet.core.shape import NUM_MODULES, ModelShape, Module
from motet.kernels import types
from motet.kernels.types import AttentionBatch, Kernels, LoraPairs, LoraTables, Round, RoutedTokens
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder

_SCORES = {Score.LINEAR: types.LINEAR, Score.ABSOLUTE: types.ABSOLUTE, Score.SELF: types.SELF}
_SHARES = {
    Share.OF_CHOSEN: types.OF_CHOSEN,
    Share.OF_ALL: types.OF_ALL,
    Share.EQUAL: types.EQUAL,
}
_NO_PAGE = 2**31 - 1  # whoever follows it leaves the pool


@dataclass(frozen=True)
class User:
    """What the tokens of a sequence use.

    Attributes:
        parts: weights of adapters by index; one of weight 1 is a plain adapter.
        case: name of a routed set, whose shared adapter is used besides.
    """

    parts: Mapping[int, float] | None = None
    case: str | None = None


@dataclass(frozen=True)
class StepResult:
    """Of each sequence of a step, in the order given.

    Attributes:
        logits: [num_tokens, vocab_size] each.
        routing: float32 [num_tokens, most gates] each: the weights of its set, summed over layers
            and projections; of a sequence without a set, zeros.
    """

    logits: Sequence[Tensor]
    routing: Sequence[Tensor]


class RoutingLab:
    """A decoder with adapters and routers in its pool.

    Args:
        adapters: slot i has the i-th.
        cases: routed sets by name; their routers have the slots after the adapters.
        seed: of the order of pages.
    """

    def __init__(
        self,
        decoder: Decoder,
        kernels: Kernels,
        adapters: Sequence[Adapter],
        cases: Mapping[str, RoutedCase],
        *,
        seed: int,
        page_size: int = 8,
        num_pages: int = 2000,
    ) -> None:
        self._decoder = decoder
        self._kernels = kernels
        self._cases = cases
        self._adapters = adapters
        self._router_slots = {name: len(adapters) + i for i, name in enumerate(cases)}
        self._page_size = page_size
        shape = decoder.config.shape
        page_elems = 2 * page_size * shape.kv_size
        self._pool = torch.full((shape.num_layers, num_pages, page_elems), torch.nan)
        generator = torch.Generator().manual_seed(seed)
        self._free = torch.randperm(num_pages, generator=generator).tolist()
        self._pages: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}
        rows = _RowWriter(self._pool, self._free, shape, len(adapters) + len(cases))
        for slot, adapter in enumerate(adapters):
            rows.write_adapter(slot, adapter)
        for name, case in cases.items():
            rows.write_gates(self._router_slots[name], case.gates)
        self._tables = rows.tables()

    @torch.inference_mode()
    def step(self, chunks: Sequence[tuple[str, User, Sequence[int]]]) -> StepResult:
        """Run each named sequence's next tokens in one batch."""
        lengths = [len(tokens) for _, _, tokens in chunks]
        users = [user for _, user, tokens in chunks for _ in tokens]
        routed, blocks = (self._routed(users, per_block) for per_block in (False, True))
        context = self._context(
            [(name, len(tokens)) for name, _, tokens in chunks],
            LoraContext(self._tables, self._fixed(users), routed, blocks),
        )
        token_ids = torch.tensor([token for _, _, tokens in chunks for token in tokens])
        logits = self._decoder.forward(token_ids, torch.arange(len(users)), context)
        width = max(each.usage.shape[1] for each in (routed, blocks) if each is not None)
        routing = torch.zeros(len(users), width)
        for each in (routed, blocks):
            if each is not None:
                routing[each.gates.tokens.long(), : each.usage.shape[1]] += each.usage
        return StepResult(torch.split(logits, lengths), torch.split(routing, lengths))

    def _context(self, chunks: Sequence[tuple[str, int]], lora: LoraContext) -> ForwardContext:
        positions: list[int] = []
        kv_slots: list[int] = []
        query_starts = [0]
        size = self._page_size
        for name, num_tokens in chunks:
            start = self._lengths.get(name, 0)
            end = self._lengths[name] = start + num_tokens
            pages = self._pages.setdefault(name, [])
            pages += [self._free.pop() for _ in range(-(-end // size) - len(pages))]
            positions += range(start, end)
            kv_slots += [pages[p // size] * size + p % size for p in range(start, end)]
            query_starts.append(query_starts[-1] + num_tokens)
        tables = [self._pages[name] for name, _ in chunks]
        width = max(map(len, tables))
        context_lens = [self._lengths[name] for name, _ in chunks]
        attention = AttentionBatch(
            page_table=_ints([each + [_NO_PAGE] * (width - len(each)) for each in tables]),
            query_starts=_ints(query_starts),
            context_lens=_ints(context_lens),
            max_query_len=max(num_tokens for _, num_tokens in chunks),
            max_context_len=max(context_lens),
            page_size=size,
        )
        return ForwardContext(
            pool=self._pool,
            kernels=self._kernels,
            attention=attention,
            positions=torch.tensor(positions),
            kv_slots=torch.tensor(kv_slots),
            lora=lora,
        )

    def _fixed(self, users: Sequence[User]) -> LoraPairs | None:
        """Pairs of compositions, plain and shared adapters: a token's n-th is in round n."""
        parts_of = [list(self._fixed_parts(user).items()) for user in users]
        rounds = [
            sorted(
                (parts[n][0], t, parts[n][1]) for t, parts in enumerate(parts_of) if n < len(parts)
            )
            for n in range(max(map(len, parts_of)))
        ]
        slots = {slot for each in rounds for slot, _, _ in each}
        if not slots:
            return None
        return _pairs(rounds, max(_max_rank(self._adapters[slot]) for slot in slots))

    def _fixed_parts(self, user: User) -> Mapping[int, float]:
        shared = None if user.case is None else self._cases[user.case].shared
        return {**(user.parts or {}), **({} if shared is None else {shared: 1.0})}

    def _routed(self, users: Sequence[User], per_block: bool) -> RoutedTokens | None:
        """The tokens of the sets that choose per block, or of those that choose per projection."""
        names = [
            name
            for name, case in self._cases.items()
            if case.rule.per_block == per_block and any(user.case == name for user in users)
        ]
        if not names:
            return None
        in_sets = sorted(
            (self._router_slots[user.case], t, user.case)
            for t, user in enumerate(users)
            if user.case in names
        )
        cases = [self._cases[name] for name in names]
        experts = [self._adapters[i] for case in cases for i in case.experts]
        max_rank = max(map(_max_rank, experts))
        most_experts = max(len(case.experts) for case in cases)
        max_gates = max((len(g) for case in cases for g in case.gates.values()), default=0)
        return RoutedTokens(
            gates=_pairs([[(slot, t, torch.nan) for slot, t, _ in in_sets]], max(max_gates, 1)),
            sets=_ints([names.index(name) for _, _, name in in_sets]),
            expert_slots=_ints(
                [[*c.experts] + [_NO_PAGE] * (most_experts - len(c.experts)) for c in cases]
            ),
            rules=_ints([_rule(case.rule) for case in cases]),
            inverse_temperatures=torch.tensor([1 / case.rule.temperature for case in cases]),
            thresholds=torch.tensor([_threshold(case.rule) for case in cases]),
            max_choices=max([1, *(_num_choices(case) for case in cases)]),
            max_rank=max_rank,
            usage=torch.zeros(len(in_sets), max(max_gates, max_rank)),
        )


class _RowWriter:
    """Packs rank rows into pages, and notes where each one is."""

    def __init__(
        self, pool: Tensor, free_pages: list[int], shape: ModelShape, num_slots: int
    ) -> None:
        self._pool = pool
        self._free = free_pages
        self._page = free_pages.pop()
        self._used = 0
        self._offsets: list[int] = []
        size = (num_slots, shape.num_layers, NUM_MODULES)
        self._starts = torch.full((*size, 2), _NO_PAGE, dtype=torch.int32)
        self._ranks = torch.zeros(size, dtype=torch.int32)

    def write_adapter(self, slot: int, adapter: Adapter) -> None:
        for (layer, module), (a, b) in adapter.items():
            self._write(slot, layer, module, (a, b.T))

    def write_gates(self, slot: int, gates: Gates) -> None:
        for (layer, module), rows in gates.items():
            self._write(slot, layer, module, (rows,))

    def tables(self) -> LoraTables:
        return LoraTables(torch.tensor(self._offsets), self._starts, self._ranks)

    def _write(self, slot: int, layer: int, module: Module, sides: Sequence[Tensor]) -> None:
        self._ranks[slot, layer, module] = len(sides[0])
        for side, rows in enumerate(sides):
            self._starts[slot, layer, module, side] = len(self._offsets)
            self._offsets += [self._place(row, layer) for row in rows]

    def _place(self, row: Tensor, layer: int) -> int:
        _, num_pages, page_elems = self._pool.shape
        if self._used + len(row) > page_elems:
            self._page, self._used = self._free.pop(), 0
        start = self._used
        self._pool[layer, self._page, start : start + len(row)] = row
        self._used += len(row)
        return (layer * num_pages + self._page) * page_elems + start


def _pairs(rounds: Sequence[Sequence[tuple[int, int, float]]], max_rank: int) -> LoraPairs:
    """Pairs of (slot, token, weight), each round sorted by slot."""
    pairs = [pair for each in rounds for pair in each]
    starts: list[int] = []
    begins = []
    first = 0
    for each in rounds:
        begins.append(Round(len(starts), first))
        changes = [i for i, (a, b) in enumerate(pairwise(each), start=1) if a[0] != b[0]]
        starts += [first + i for i in (0, *changes)]
        first += len(each)
    return LoraPairs(
        tokens=_ints([token for _, token, _ in pairs]),
        slots=_ints([slot for slot, _, _ in pairs]),
        weights=torch.tensor([weight for _, _, weight in pairs]),
        segment_starts=_ints([*starts, len(pairs)]),
        max_rank=max_rank,
        rounds=tuple(begins),
    )


def _rule(rule: RoutingRule) -> list[int]:
    score, share = _SCORES[rule.score], _SHARES[rule.share]
    return [rule.top_k, score, share, int(rule.by_rank), int(rule.has_bias)]


def _threshold(rule: RoutingRule) -> float:
    return -torch.inf if rule.threshold is None else rule.threshold


def _num_choices(case: RoutedCase) -> int:
    return 0 if case.rule.by_rank else min(case.rule.top_k, len(case.experts))


def _max_rank(adapter: Adapter) -> int:
    return max(len(factors.a) for factors in adapter.values())


def _ints(values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)
