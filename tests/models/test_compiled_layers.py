"""All layers as one compiled call, against the same layers run one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from motet.core.shape import GATE_UP, MODULES, NUM_MODULES, QKV, Module
from motet.kernels import layers_cpu_loops as loops
from motet.kernels.cpu_backend import CpuKernels
from motet.kernels.lora_cpu import LONG_SEGMENT
from motet.kernels.reference_backend import ReferenceKernels
from motet.kernels.types import Kernels, LoraTables
from motet.models import compiled_layers
from motet.models.compiled_layers import CompiledLayers
from motet.models.config import DecoderConfig, parse_config
from motet.models.context import ForwardContext, LoraContext
from motet.models.decoder import Decoder
from motet.models.loader import load_decoder
from motet.models.matrix import DenseMatrix
from motet.models.weights import DecoderWeights, read_weights
from tests.kernels.cpu_cases import thread_counts, threads
from tests.kernels.fused_cases import bits
from tests.models.paged import PagedRunner
from tests.models.test_decoder import assert_same_logits
from tests.models.test_decoder_lora import PAGE_SIZE, Adapter, RowWriter, make_pairs
from tests.models.tiny import (
    MAX_LEN,
    TINY_MODELS,
    random_tokens,
    reference_logits,
    save_tiny_model,
    tiny_model,
)

CPU = torch.device("cpu")
STORAGES = [torch.float32, torch.bfloat16, torch.int8]
TOLERANCE = 5e-6
"""Of the largest number of the same kind."""

# Their names and targets are not used: which modules they touch is drawn.
ONE, TWO, ELEVEN, TWENTY = (
    Adapter(f"rank-{rank}", slot, rank, alpha=rank, targets=())
    for slot, rank in {4: 1, 2: 2, 5: 11, 0: 20}.items()
)
ADAPTERS = [ONE, TWO, ELEVEN, TWENTY]

User = tuple[str, Adapter | None, int]
"""A sequence's name, its adapter, and how many new tokens it has."""

# Prefill, decode, both at once, decode: the batch shrinks, grows past the first, and shrinks.
STEPS: list[list[User]] = [
    [("a", ELEVEN, 9), ("b", None, 5), ("c", TWO, 1), ("d", ELEVEN, 7)],
    [("b", None, 1), ("a", ELEVEN, 1)],
    [("a", ELEVEN, 6), ("e", TWENTY, 17), ("c", TWO, 1), ("b", None, 1), ("f", ONE, 3)],
    [("f", ONE, 1), ("b", None, 1), ("d", ELEVEN, 1), ("c", TWO, 1), ("e", TWENTY, 1)],
]
# So large that its norms, products and adapters are divided among threads.
LARGE_STEPS: list[list[User]] = [
    [(name, TWENTY, 51) for name in "abcdef"] + [("g", None, 40), ("h", TWO, 1)],
    [(name, TWENTY, 1) for name in "abcdef"] + [("g", None, 1), ("h", TWO, 1)],
    [("a", TWENTY, 1), ("g", None, 2)],
]

over_models = pytest.mark.parametrize("name", TINY_MODELS)


class OneByOne(Decoder):
    """Gives what its layers leave, run one by one: the stream and its last term, side by side."""

    def forward(self, token_ids: Tensor, logits_rows: Tensor, ctx: ForwardContext) -> Tensor:
        residual = self._embedding.rows(token_ids)
        delta = self._run_layers(residual, ctx)
        return torch.cat((residual, delta), dim=1)


class Compiled(Decoder):
    """Likewise, run as one call. Its workspace is NaN, so that what an earlier call left shows."""

    def forward(self, token_ids: Tensor, logits_rows: Tensor, ctx: ForwardContext) -> Tensor:
        residual = self._embedding.rows(token_ids)
        assert self._compiled is not None
        self._compiled._workspace.fill_(torch.nan)
        delta = self._compiled.run(residual, ctx)
        return torch.cat((residual, delta), dim=1)


class StateDict:
    """A model's tensors as a `Checkpoint`."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._tensors = model.state_dict()
        self.names = set(self._tensors)

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        assert self._tensors[name].shape == shape
        return self._tensors[name]


@cache
def tiny_weights(name: str, storage: torch.dtype) -> tuple[DecoderConfig, DecoderWeights]:
    model = tiny_model(name, seed=1)
    model.config.architectures = [type(model).__name__]
    config = parse_config(model.config)
    return config, read_weights(config, StateDict(model), CPU, torch.float32, storage)


def as_float64(value: Any) -> Any:
    """The same numbers in plain float64 matrices and vectors."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.double()
    if isinstance(value, tuple):
        return tuple(as_float64(each) for each in value)
    if hasattr(value, "multiply"):
        return DenseMatrix(value.rows(torch.arange(value.out_features)).double())
    return replace(value, **{f.name: as_float64(getattr(value, f.name)) for f in fields(value)})


def write_adapters(runner: PagedRunner, config: DecoderConfig) -> LoraTables:
    """Adapters of mixed ranks; most modules of most layers have one, up to the adapter's own."""
    generator = torch.Generator().manual_seed(2)
    shape = config.shape
    writer = RowWriter(runner, shape)
    for adapter in ADAPTERS:
        for layer in range(shape.num_layers):
            for module in MODULES:
                rank = int(torch.randint(1, adapter.rank + 1, (), generator=generator))
                if layer == 0:
                    rank = adapter.rank
                elif torch.rand((), generator=generator) < 0.3:
                    continue
                a = torch.randn(rank, shape.in_features(module), generator=generator)
                b = torch.randn(rank, shape.out_features(module), generator=generator)
                writer.write(adapter.slot, layer, module, (0.1 * a, 0.1 * b))
    return writer.tables()


def run(
    decoder: Decoder,
    kernels: Kernels,
    steps: Sequence[Sequence[User]] = STEPS,
    *,
    has_adapters: bool = True,
) -> tuple[list[Tensor], Tensor]:
    """What each step leaves, and the pool after them."""
    runner = PagedRunner(decoder, kernels, seed=3, page_size=PAGE_SIZE, num_pages=400)
    tables = write_adapters(runner, decoder.config)
    generators = {n: torch.Generator().manual_seed(ord(n)) for step in steps for n, _, _ in step}
    outputs = []
    for step in steps:
        chunks = [(n, random_tokens(generators[n], num_tokens)) for n, _, num_tokens in step]
        lora = None
        if has_adapters:
            users = [(adapter, 0.75, num_tokens) for _, adapter, num_tokens in step]
            lora = LoraContext(tables, make_pairs(users))
        outputs.append(runner.step(chunks, lora))
    return outputs, runner.pool


def assert_near(actual: Tensor, exact: Tensor) -> None:
    """The same NaN, and elsewhere equal up to `TOLERANCE` times the largest number."""
    assert actual.shape == exact.shape
    assert torch.equal(actual.isnan(), exact.isnan())
    is_number = ~exact.isnan()
    error = (actual.double() - exact)[is_number].abs().max() / exact[is_number].abs().max()
    assert error <= TOLERANCE, f"differ by {error:.2e} of their scale"


def assert_outcome(actual: tuple[list[Tensor], Tensor], exact: tuple[list[Tensor], Tensor]) -> None:
    """Stream, last term and pool of all steps."""
    for left, expected in zip(actual[0], exact[0], strict=True):
        for part, expected_part in zip(left.chunk(2, 1), expected.chunk(2, 1), strict=True):
            assert_near(part, expected_part)
    assert_near(actual[1], exact[1])


def assert_same_bits(
    actual: tuple[list[Tensor], Tensor], expected: tuple[list[Tensor], Tensor]
) -> None:
    for a, b in zip((*actual[0], actual[1]), (*expected[0], expected[1]), strict=True):
        assert torch.equal(bits(a), bits(b))


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # which has torch fill what it allocates
    yield
    torch.use_deterministic_algorithms(False)


# What is computed.


@over_models
@pytest.mark.parametrize("has_adapters", [False, True])
def test_against_float64(name: str, has_adapters: bool) -> None:
    config, weights = tiny_weights(name, torch.float32)
    exact_decoder = OneByOne(config, as_float64(weights))
    exact = run(exact_decoder, ReferenceKernels(), has_adapters=has_adapters)
    actual = run(Compiled(config, weights), CpuKernels(), has_adapters=has_adapters)
    assert_outcome(actual, exact)


@pytest.mark.parametrize("storage", STORAGES[1:])
@pytest.mark.parametrize("name", ["llama-tied-biased", "qwen3"])
def test_other_weights_against_float64(name: str, storage: torch.dtype) -> None:
    """The numbers that the packed matrices hold are multiplied, whatever they were packed from."""
    config, weights = tiny_weights(name, storage)
    exact = run(OneByOne(config, as_float64(weights)), ReferenceKernels())
    assert_outcome(run(Compiled(config, weights), CpuKernels()), exact)


@over_models
def test_against_the_same_kernels_one_by_one(name: str) -> None:
    config, weights = tiny_weights(name, torch.float32)
    one_by_one = run(OneByOne(config, weights), CpuKernels())
    assert_same_bits(run(Compiled(config, weights), CpuKernels()), one_by_one)


@pytest.mark.parametrize("storage", STORAGES)
def test_many_tokens_of_one_adapter(storage: torch.dtype) -> None:
    """A segment that the kernels, run one by one, leave to BLAS."""
    config, weights = tiny_weights("llama", storage)
    assert sum(n for _, adapter, n in LARGE_STEPS[0] if adapter is TWENTY) > LONG_SEGMENT
    exact = run(OneByOne(config, as_float64(weights)), ReferenceKernels(), LARGE_STEPS)
    assert_outcome(run(Compiled(config, weights), CpuKernels(), LARGE_STEPS), exact)
    assert_outcome(run(OneByOne(config, weights), CpuKernels(), LARGE_STEPS), exact)


def test_tables_without_a_pair() -> None:
    """A batch of base tokens alone gives what it gives without tables, bit for bit."""
    config, weights = tiny_weights("qwen3", torch.float32)
    step: list[User] = [("a", None, 7), ("b", None, 1)]
    expected = run(Compiled(config, weights), CpuKernels(), [step], has_adapters=False)
    runner = PagedRunner(
        Compiled(config, weights), CpuKernels(), seed=3, page_size=PAGE_SIZE, num_pages=400
    )
    tables = write_adapters(runner, config)
    pairs = replace(
        make_pairs([(ONE, 1.0, 1)]),
        tokens=torch.empty(0, dtype=torch.int32),
        slots=torch.empty(0, dtype=torch.int32),
        weights=torch.empty(0),
        segment_starts=torch.zeros(1, dtype=torch.int32),
    )
    chunks = [(n, random_tokens(torch.Generator().manual_seed(ord(n)), k)) for n, _, k in step]
    left = runner.step(chunks, LoraContext(tables, pairs))
    assert_same_bits(([left], runner.pool), expected)


def test_nothing_is_written_past_what_was_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the workspace nor the adapters' partial sums are too small for any step."""
    config, weights = tiny_weights("llama", torch.float32)
    empty = torch.empty
    guards: dict[str, list[Tensor]] = {"workspace": [], "v": []}

    def guarded(name: str, num_elements: int) -> Tensor:
        memory = torch.full((num_elements + 4096,), torch.nan)
        guards[name].append(memory[num_elements:])
        return memory[:num_elements]

    def guarded_empty(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs or not isinstance(args[0], int):
            return empty(*args, **kwargs)
        return guarded("v", args[0])

    monkeypatch.setattr(torch, "empty", guarded_empty)
    monkeypatch.setattr(
        compiled_layers, "zeros_on_huge_pages", lambda shape, _: guarded("workspace", *shape)
    )
    run(Compiled(config, weights), CpuKernels())
    for memories in guards.values():
        assert len(memories) > 1
        assert all(memory.isnan().all() for memory in memories)


# What it may not depend on.


@pytest.mark.parametrize("storage", STORAGES)
def test_the_number_of_threads_changes_no_bit(storage: torch.dtype) -> None:
    config, weights = tiny_weights("llama", storage)
    results = []
    for counts in thread_counts():
        with threads(*counts):
            results.append(run(Compiled(config, weights), CpuKernels(), LARGE_STEPS))
    for each in results[1:]:
        assert_same_bits(each, results[0])


@pytest.mark.parametrize("name", ["llama", "mistral-window"])
def test_a_sequence_does_not_depend_on_those_beside_it(name: str) -> None:
    """Bit for bit, whether its KV heads are shared out or, beside many others, are not."""
    config, weights = tiny_weights(name, torch.float32)
    for num_threads in (1, 2):
        with threads(num_threads, 1):
            together, _ = run(Compiled(config, weights), CpuKernels())
            for sequence in "abcdef":
                check_alone(sequence, together, Compiled(config, weights))


def check_alone(name: str, together: list[Tensor], decoder: Decoder) -> None:
    """A sequence run by itself leaves what it left beside the others."""
    own = [[user for user in step if user[0] == name] for step in STEPS]
    has_adapter = any(adapter is not None for step in own for _, adapter, _ in step)
    alone, _ = run(decoder, CpuKernels(), [s for s in own if s], has_adapters=has_adapter)
    beside = [
        rows
        for left, step in zip(together, STEPS, strict=True)
        for rows, user in zip(left.split([n for _, _, n in step]), step, strict=True)
        if user[0] == name
    ]
    for actual, expected in zip(alone, beside, strict=True):
        assert torch.equal(bits(actual), bits(expected))


def test_what_overflows_in_a_sequence_stays_there_and_shows() -> None:
    """In every token from there on. Those before it in the same chunk may have it too: attention
    multiplies the values that they do not see by zero.
    """
    config, weights = tiny_weights("llama", torch.float32)

    class Overflowing(Compiled):
        def forward(self, token_ids: Tensor, logits_rows: Tensor, ctx: ForwardContext) -> Tensor:
            embedding = self._embedding
            residual = embedding.rows(token_ids)
            residual[2] = torch.inf  # the third token of the first sequence
            assert self._compiled is not None
            delta = self._compiled.run(residual, ctx)
            return torch.cat((residual, delta), dim=1)

    (clean, *_), _ = run(Compiled(config, weights), CpuKernels(), STEPS[:1])
    (left, *_), _ = run(Overflowing(config, weights), CpuKernels(), STEPS[:1])
    assert not left[2:9].isfinite().any()
    assert torch.equal(left[9:], clean[9:])


def test_the_workspace_is_kept_until_a_batch_is_larger() -> None:
    config, weights = tiny_weights("llama", torch.float32)
    compiled = CompiledLayers(config, weights, torch.empty(0))
    sizes = []
    for num_tokens in (3, 40, 2, 40, 41):
        parts = compiled._workspace_for(num_tokens)
        assert all(len(part) % num_tokens == 0 for part in parts)
        starts = [part.data_ptr() for part in parts]
        ends = [part.data_ptr() + 4 * len(part) for part in parts]
        assert starts[1:] == ends[:-1]  # none overlaps another
        sizes.append(len(compiled._workspace))
    assert sizes[1] == sizes[2] == sizes[3]
    assert sizes[0] < sizes[1] < sizes[4]


# Which models it takes, and which kernels.


ODD_SIZES: dict[str, dict[str, int]] = {
    "hidden-packed": {"hidden_size": 84},
    "hidden-dense": {"hidden_size": 102},
    "intermediate-packed": {"intermediate_size": 164},
    "intermediate-dense": {"intermediate_size": 165},
}


def odd_llama(**sizes: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": 131,
                "hidden_size": 96,
                "intermediate_size": 160,
                "num_hidden_layers": 2,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "max_position_embeddings": MAX_LEN,
                **sizes,
            }
        )
    )


@pytest.mark.parametrize("sizes", ODD_SIZES)
def test_models_of_odd_sizes_run_layer_by_layer(
    sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose rows are no whole number of vectors, or whose matrices are not packed at all."""
    monkeypatch.setitem(TINY_MODELS, "odd", lambda: odd_llama(**ODD_SIZES[sizes]))
    reference = save_tiny_model("odd", tmp_path, seed=4)
    decoder = load_decoder(tmp_path, CPU, torch.float32)
    assert decoder._compiled is None
    prompt = random_tokens(torch.Generator().manual_seed(5), 30)
    runner = PagedRunner(decoder, CpuKernels(), seed=6)
    logits = [runner.step([("a", prompt[:20])]), *(runner.step([("a", [t])]) for t in prompt[20:])]
    assert_same_logits(torch.cat(logits), reference_logits(reference, prompt))


def test_the_other_sizes_are_compiled() -> None:
    """`odd_llama` without what makes it odd is: the test above says what it says."""
    model = odd_llama()
    model.config.architectures = ["LlamaForCausalLM"]
    config = parse_config(model.config)
    weights = read_weights(config, StateDict(model), CPU, torch.float32)
    assert CompiledLayers.can_compile(config, weights)
    layer = replace(weights.layers[1], down=as_float64(weights.layers[1].down))
    mixed = replace(weights, layers=(weights.layers[0], layer))
    assert not CompiledLayers.can_compile(config, mixed)


@over_models
def test_all_tiny_models_are_compiled(name: str) -> None:
    for storage in STORAGES:
        assert Decoder(*tiny_weights(name, storage))._compiled is not None


def test_a_decoder_in_half_precision_is_not_compiled(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path)
    assert load_decoder(tmp_path, CPU, torch.bfloat16)._compiled is None


@pytest.mark.parametrize("kernels", [ReferenceKernels(), CpuKernels()])
def test_the_kernels_decide(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that say so are replaced by the compiled call."""
    calls = []
    run_compiled = CompiledLayers.run
    monkeypatch.setattr(
        CompiledLayers, "run", lambda *args: calls.append(args) or run_compiled(*args)
    )
    runner = PagedRunner(Decoder(*tiny_weights("llama", torch.float32)), kernels, seed=7)
    runner.step([("a", [1, 2, 3])])
    assert bool(calls) == isinstance(kernels, CpuKernels)


def test_the_loops_number_what_the_model_does() -> None:
    assert loops.NUM_MODULES == NUM_MODULES
    by_number = {loops.QKV: QKV, loops.O: (Module.O,), loops.GATE_UP: GATE_UP}
    by_number[loops.DOWN] = (Module.DOWN,)
    assert tuple(by_number[i] for i in range(4)) == compiled_layers._SIBLINGS


# What is refused.


class Changed(Compiled):
    """Runs a context of which something has been changed."""

    change: dict[str, Any]

    def forward(self, token_ids: Tensor, logits_rows: Tensor, ctx: ForwardContext) -> Tensor:
        changes = {name: change(getattr(ctx, name)) for name, change in self.change.items()}
        return super().forward(token_ids, logits_rows, replace(ctx, **changes))


def spaced(x: Tensor) -> Tensor:
    """The same numbers, every other element of a tensor."""
    return torch.stack((x, x), dim=-1)[..., 0]


def within(name: str, change: Any) -> Any:
    """A change of one field of a record."""
    return lambda record: replace(record, **{name: change(getattr(record, name))})


CHANGES: dict[str, dict[str, Any]] = {
    "pool and residual must be float32": {"pool": Tensor.double},
    "the pool is a view with gaps": {"pool": spaced},
    "a page has": {"attention": within("page_size", lambda n: n + 1)},
    "positions is": {"positions": Tensor.int},
    "positions must have": {"positions": lambda x: x[:-1]},
    "positions must be contiguous": {"positions": spaced},
    "kv_slots is": {"kv_slots": Tensor.int},
    "kv_slots must be contiguous": {"kv_slots": spaced},
    "page_table is": {"attention": within("page_table", Tensor.long)},
    "query_starts is": {"attention": within("query_starts", Tensor.long)},
    "query_starts must be contiguous": {"attention": within("query_starts", spaced)},
    "query_starts must have": {"attention": within("query_starts", lambda x: x[:-1])},
    "context_lens is": {"attention": within("context_lens", Tensor.long)},
    "context_lens must be contiguous": {"attention": within("context_lens", spaced)},
    "tables must be int32": {"lora": within("tables", within("ranks", Tensor.long))},
    "weights must be float32": {"lora": within("pairs", within("weights", Tensor.double))},
    "ranks must be contiguous": {"lora": within("tables", within("ranks", spaced))},
    "tokens must be contiguous": {"lora": within("pairs", within("tokens", spaced))},
    "other modules": {"lora": within("tables", within("ranks", lambda x: x[..., :-1].clone()))},
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_would_read_foreign_memory_is_refused(message: str) -> None:
    decoder = Changed(*tiny_weights("llama", torch.float32))
    decoder.change = CHANGES[message]
    with pytest.raises(AssertionError, match=message):
        run(decoder, CpuKernels(), STEPS[:1])
