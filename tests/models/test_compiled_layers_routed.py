"""Base, plain, composed and routed sequences in one batch, through the layers as one call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from motet.core.shape import MODULES
from motet.kernels.cpu_backend import CpuKernels
from motet.kernels.reference_backend import ReferenceKernels
from motet.kernels.types import (
    EQUAL,
    OF_ALL,
    SELF,
    Kernels,
    LoraPairs,
    LoraTables,
    Round,
    RoutedTokens,
    Rule,
)
from motet.models import compiled_layers
from motet.models.config import DecoderConfig
from motet.models.context import LoraContext
from motet.models.decoder import Decoder
from tests.kernels.cpu_cases import thread_counts, threads
from tests.kernels.fused_cases import bits
from tests.models.paged import PagedRunner
from tests.models.test_compiled_layers import (
    ADAPTERS,
    ELEVEN,
    ONE,
    TWENTY,
    TWO,
    Changed,
    Compiled,
    OneByOne,
    as_float64,
    assert_outcome,
    assert_same_bits,
    tiny_weights,
)
from tests.models.test_decoder_lora import PAGE_SIZE, RowWriter
from tests.models.tiny import random_tokens

ROUTER, RANK_ROUTER, NO_ROUTER = 1, 3, 6
"""Slots: gates of three experts, gates of ranks with biases, and none for the score `SELF`."""

EXPERTS = [[ONE.slot, TWO.slot, ELEVEN.slot], [TWENTY.slot], [ELEVEN.slot]]
ROUTERS = [ROUTER, RANK_ROUTER, NO_ROUTER]
NUM_GATES = 20


@dataclass(frozen=True)
class User:
    """A sequence: its weighted adapters, or its routed set, and how many new tokens it has."""

    name: str
    num_tokens: int
    parts: tuple[tuple[int, float], ...] = ()
    routed: int | None = None


def steps(*counts: dict[str, int]) -> list[list[User]]:
    kinds: dict[str, dict[str, Any]] = {
        "a": {"routed": 0},
        "b": {},
        "c": {"parts": ((ELEVEN.slot, 0.5), (TWENTY.slot, -0.75), (ONE.slot, 1.5))},
        "d": {"parts": ((TWO.slot, 1.0),)},
        "e": {"routed": 1},
        "f": {"routed": 0},
        "g": {"routed": 2},
        "h": {"parts": ((TWENTY.slot, 0.25), (ELEVEN.slot, 0.75))},
    }
    return [[User(n, count, **kinds[n]) for n, count in step.items()] for step in counts]


STEPS = steps(
    {"a": 9, "b": 5, "c": 7, "d": 1, "e": 6, "f": 2, "g": 5, "h": 3},
    dict.fromkeys("hgfedcba", 1),
    {"a": 1, "e": 1},
    {"b": 3, "c": 1},
    {"b": 1, "g": 4},
)
LARGE_STEPS = steps({"a": 50, "c": 40, "e": 50, "f": 50, "g": 50, "h": 30}, {"a": 1, "c": 1})


def write_all(runner: PagedRunner, config: DecoderConfig) -> LoraTables:
    """The adapters and routers; a router lacks some modules, but none of the first layer."""
    generator = torch.Generator().manual_seed(2)
    shape = config.shape
    writer = RowWriter(runner, shape)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def is_left_out(layer: int) -> bool:
        return layer > 0 and bool(torch.rand((), generator=generator) < 0.3)

    for layer in range(shape.num_layers):
        for module in MODULES:
            in_features, out_features = shape.in_features(module), shape.out_features(module)
            for adapter in ADAPTERS:
                if not is_left_out(layer) or adapter is TWENTY:
                    a, b = draw(adapter.rank, in_features), draw(adapter.rank, out_features)
                    writer.write(adapter.slot, layer, module, (0.1 * a, 0.1 * b))
            for slot, num_gates in ((ROUTER, 3), (RANK_ROUTER, NUM_GATES + 1)):
                if not is_left_out(layer):
                    gates = draw(num_gates, in_features)
                    writer.write(slot, layer, module, (gates, gates[:0]))
    return writer.tables()


def fixed_pairs(users: Sequence[User]) -> LoraPairs | None:
    """The parts of each sequence, the n-th of all of them in the n-th round."""
    first_tokens = first_tokens_of(users)
    tokens, slots, weights, starts, rounds = [], [], [], [0], []
    for number in range(max(len(user.parts) for user in users)):
        rounds.append(Round(len(starts) - 1, len(tokens)))
        rows = sorted(
            (*user.parts[number], token)
            for user, first in zip(users, first_tokens, strict=True)
            for token in range(first, first + user.num_tokens)
            if number < len(user.parts)
        )
        for i, (slot, weight, token) in enumerate(rows):
            if i > 0 and slots[-1] != slot:
                starts.append(len(tokens))
            tokens.append(token)
            slots.append(slot)
            weights.append(weight)
        starts.append(len(tokens))
    if not tokens:
        return None
    return LoraPairs(
        tokens=torch.tensor(tokens, dtype=torch.int32),
        slots=torch.tensor(slots, dtype=torch.int32),
        weights=torch.tensor(weights),
        segment_starts=torch.tensor(starts, dtype=torch.int32),
        max_rank=20,
        rounds=tuple(rounds),
    )


def routed_tokens(users: Sequence[User]) -> RoutedTokens | None:
    """The tokens of routed sequences, by their sets."""
    rows = sorted(
        (user.routed, token)
        for user, first in zip(users, first_tokens_of(users), strict=True)
        for token in range(first, first + user.num_tokens)
        if user.routed is not None
    )
    if not rows:
        return None
    sets = [a_set for a_set, _ in rows]
    rules = torch.zeros(3, len(Rule), dtype=torch.int32)
    rules[:, Rule.TOP_K] = torch.tensor([2, 8, 5])
    rules[:, Rule.SHARE] = torch.tensor([0, EQUAL, OF_ALL])
    rules[1:, Rule.BY_RANK] = 1
    rules[1, Rule.HAS_BIAS] = 1
    rules[2, Rule.SCORE] = SELF
    starts = [i for i, a_set in enumerate(sets) if i == 0 or sets[i - 1] != a_set]
    return RoutedTokens(
        gates=LoraPairs(
            tokens=torch.tensor([token for _, token in rows], dtype=torch.int32),
            slots=torch.tensor([ROUTERS[a_set] for a_set in sets], dtype=torch.int32),
            weights=torch.full((len(rows),), torch.nan),
            segment_starts=torch.tensor([*starts, len(rows)], dtype=torch.int32),
            max_rank=NUM_GATES + 1,
        ),
        sets=torch.tensor(sets, dtype=torch.int32),
        expert_slots=torch.tensor([each + [2**30] * (3 - len(each)) for each in EXPERTS]).int(),
        rules=rules,
        inverse_temperatures=torch.tensor([1.0, 1.0, 2.0]),
        thresholds=torch.tensor([-torch.inf, -torch.inf, 0.05]),
        max_choices=2,
        max_rank=20,
        usage=torch.zeros(len(rows), NUM_GATES),
    )


def first_tokens_of(users: Sequence[User]) -> list[int]:
    counts = [user.num_tokens for user in users]
    return [sum(counts[:i]) for i in range(len(counts))]


def run(
    decoder: Decoder, kernels: Kernels, batches: Sequence[Sequence[User]] = STEPS
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """What each step leaves, the pool after them, and the usage of each step with routed tokens."""
    runner = PagedRunner(decoder, kernels, seed=3, page_size=PAGE_SIZE, num_pages=600)
    tables = write_all(runner, decoder.config)
    generators = {u.name: torch.Generator().manual_seed(ord(u.name)) for b in batches for u in b}
    outputs, usages = [], []
    for users in batches:
        chunks = [(u.name, random_tokens(generators[u.name], u.num_tokens)) for u in users]
        pairs, routed = fixed_pairs(users), routed_tokens(users)
        lora = None if pairs is None and routed is None else LoraContext(tables, pairs, routed)
        outputs.append(runner.step(chunks, lora))
        if routed is not None:
            usages.append(routed.usage)
    return outputs, runner.pool, usages


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # which has torch fill what it allocates
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_against_float64(name: str) -> None:
    config, weights = tiny_weights(name, torch.float32)
    *exact, exact_usages = run(OneByOne(config, as_float64(weights)), ReferenceKernels())
    *actual, usages = run(Compiled(config, weights), CpuKernels())
    assert_outcome((actual[0], actual[1]), (exact[0], exact[1]))
    for found, expected in zip(usages, exact_usages, strict=True):
        assert expected.any()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_against_the_same_kernels_one_by_one() -> None:
    config, weights = tiny_weights("llama-tied-biased", torch.float32)
    *one_by_one, one_by_one_usages = run(OneByOne(config, weights), CpuKernels())
    *compiled, usages = run(Compiled(config, weights), CpuKernels())
    assert_same_bits((compiled[0], compiled[1]), (one_by_one[0], one_by_one[1]))
    for found, expected in zip(usages, one_by_one_usages, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", "abcdefgh")
def test_a_sequence_does_not_depend_on_those_beside_it(name: str) -> None:
    config, weights = tiny_weights("llama", torch.float32)
    together, _, _ = run(Compiled(config, weights), CpuKernels())
    own = [[user for user in users if user.name == name] for users in STEPS]
    alone, _, _ = run(Compiled(config, weights), CpuKernels(), [users for users in own if users])
    beside = [
        rows
        for left, users in zip(together, STEPS, strict=True)
        for rows, user in zip(left.split([u.num_tokens for u in users]), users, strict=True)
        if user.name == name
    ]
    for actual, expected in zip(alone, beside, strict=True):
        assert torch.equal(bits(actual), bits(expected))


def test_the_number_of_threads_changes_no_bit() -> None:
    config, weights = tiny_weights("llama", torch.float32)
    results = []
    for counts in thread_counts():
        with threads(*counts):
            results.append(run(Compiled(config, weights), CpuKernels(), LARGE_STEPS))
    for outputs, pool, usages in results[1:]:
        assert_same_bits((outputs, pool), (results[0][0], results[0][1]))
        assert all(torch.equal(a, b) for a, b in zip(usages, results[0][2], strict=True))


def test_nothing_is_written_past_what_was_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen, laid out and shrunk has room."""
    config, weights = tiny_weights("llama", torch.float32)
    empty = torch.empty
    guards: list[Tensor] = []

    def guarded_empty(*args: Any, **kwargs: Any) -> Tensor:
        if len(args) != 1 or not isinstance(args[0], int):
            return empty(*args, **kwargs)
        memory = torch.full((args[0] + 4096,), 1717, dtype=kwargs.get("dtype", torch.float32))
        guards.append(memory[args[0] :])
        return memory[: args[0]]

    decoder = Compiled(config, weights)
    monkeypatch.setattr(torch, "empty", guarded_empty)
    run(decoder, CpuKernels(), LARGE_STEPS)
    assert len(guards) > 10
    assert all((guard == 1717).all() for guard in guards)


def test_only_routed_blocks_run_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run_compiled = compiled_layers.CompiledLayers.run
    monkeypatch.setattr(
        compiled_layers.CompiledLayers,
        "run",
        lambda *args: calls.append(args) or run_compiled(*args),
    )
    run(Decoder(*tiny_weights("llama", torch.float32)), CpuKernels())
    assert len(calls) == len(STEPS)


def test_what_would_read_foreign_memory_is_refused() -> None:
    decoder = Changed(*tiny_weights("llama", torch.float32))
    changes = {
        "rules is": lambda lora: replace(
            lora, routed=replace(lora.routed, rules=lora.routed.rules.long())
        ),
        "blocks with experts": lambda lora: replace(lora, blocks=lora.routed, routed=None),
    }
    for message, change in changes.items():
        decoder.change = {"lora": change}
        with pytest.raises(AssertionError, match=message):
            run(decoder, CpuKernels(), STEPS[:1])
