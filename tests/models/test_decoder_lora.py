"""Adapters through the decoder against PEFT: base, adapters and factors in one batch."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from motet.core.shape import MODULES, NUM_MODULES, ModelShape, Module
from motet.kernels.cpu_backend import CpuKernels
from motet.kernels.reference_backend import ReferenceKernels
from motet.kernels.types import Kernels, LoraPairs, LoraTables
from motet.models.context import LoraContext
from motet.models.loader import load_decoder
from tests.models.paged import PagedRunner
from tests.models.test_decoder import assert_same_logits
from tests.models.tiny import random_tokens, reference_logits, save_tiny_model

CPU = torch.device("cpu")
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PAGE_SIZE = 8


@dataclass(frozen=True)
class Adapter:
    """A LoRA of the tests. Its slot in the tables is not its place in the list."""

    name: str
    slot: int
    rank: int
    alpha: int
    targets: tuple[str, ...]


ADAPTERS = [
    Adapter("wide", slot=5, rank=11, alpha=16, targets=tuple(NAMES)),
    Adapter("thin", slot=2, rank=2, alpha=3, targets=("k_proj", "o_proj", "up_proj")),
    Adapter("rank-1", slot=0, rank=1, alpha=4, targets=("v_proj", "down_proj")),
]
NUM_SLOTS = 7


def with_adapters(reference: torch.nn.Module, seed: int) -> PeftModel:
    """The model with every adapter on it, A and B random."""
    model: PeftModel | None = None
    for adapter in ADAPTERS:
        config = LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.targets)
        )
        if model is None:
            model = get_peft_model(reference, config, adapter_name=adapter.name)
        else:
            model.add_adapter(adapter.name, config)
    assert model is not None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def adapter_logits(model: PeftModel, adapter: Adapter | None, tokens: list[int]) -> Tensor:
    if adapter is None:
        with model.disable_adapter():
            return reference_logits(model, tokens)
    model.set_adapter(adapter.name)
    return reference_logits(model, tokens)


def lora_rows(
    model: PeftModel, adapter: Adapter, layer: int, module: Module
) -> tuple[Tensor, Tensor] | None:
    """Rows of A and scaled columns of B, [rank, in_features] and [rank, out_features]."""
    name = NAMES[module]
    if name not in adapter.targets:
        return None
    parent = "self_attn" if module <= Module.O else "mlp"
    state = model.state_dict()
    prefix = f"base_model.model.model.layers.{layer}.{parent}.{name}"
    a = state[f"{prefix}.lora_A.{adapter.name}.weight"]
    b = state[f"{prefix}.lora_B.{adapter.name}.weight"]
    return a, b.t() * (adapter.alpha / adapter.rank)


class RowWriter:
    """Packs rank rows into pages of the runner, and notes where each one is."""

    def __init__(self, runner: PagedRunner, shape: ModelShape) -> None:
        self._runner = runner
        self._page_elems = runner.pool.shape[2]
        self._page = runner.take_pages(1)[0]
        self._used = 0
        self._offsets: list[int] = []
        size = (NUM_SLOTS, shape.num_layers, NUM_MODULES)
        self._starts = torch.full((*size, 2), 2**31 - 1, dtype=torch.int32)
        self._ranks = torch.zeros(size, dtype=torch.int32)

    def write(self, slot: int, layer: int, module: Module, rows: tuple[Tensor, Tensor]) -> None:
        for side, matrix in enumerate(rows):
            self._starts[slot, layer, module, side] = len(self._offsets)
            for row in matrix:
                self._offsets.append(self._place(row, layer))
        self._ranks[slot, layer, module] = rows[0].shape[0]

    def tables(self) -> LoraTables:
        offsets = torch.tensor(self._offsets, dtype=torch.int64)
        return LoraTables(offsets, self._starts, self._ranks)

    def _place(self, row: Tensor, layer: int) -> int:
        if self._used + len(row) > self._page_elems:
            self._page = self._runner.take_pages(1)[0]
            self._used = 0
        start = self._used
        self._runner.pool[layer, self._page, start : start + len(row)] = row
        self._used += len(row)
        num_pages = self._runner.pool.shape[1]
        return (layer * num_pages + self._page) * self._page_elems + start


def make_pairs(users: list[tuple[Adapter | None, float, int]]) -> LoraPairs:
    """Pairs of a batch: for each sequence its adapter, its factor and its number of tokens."""
    rows: list[tuple[int, int, float]] = []
    token = 0
    for adapter, weight, num_tokens in users:
        if adapter is not None:
            rows += [(adapter.slot, t, weight) for t in range(token, token + num_tokens)]
        token += num_tokens
    rows.sort()
    slots = [slot for slot, _, _ in rows]
    starts = [i for i in range(len(rows)) if i == 0 or slots[i] != slots[i - 1]]
    return LoraPairs(
        tokens=torch.tensor([t for _, t, _ in rows], dtype=torch.int32),
        slots=torch.tensor(slots, dtype=torch.int32),
        weights=torch.tensor([w for _, _, w in rows], dtype=torch.float32),
        segment_starts=torch.tensor([*starts, len(rows)], dtype=torch.int32),
        max_rank=max(adapter.rank for adapter, _, _ in users if adapter is not None),
    )


@pytest.mark.parametrize("kernels", [ReferenceKernels(), CpuKernels()], ids=["reference", "cpu"])
@pytest.mark.parametrize("name", ["llama-tied-biased", "mistral-window", "qwen2", "qwen3"])
def test_adapters_in_one_batch(name: str, kernels: Kernels, tmp_path: Path) -> None:
    reference = save_tiny_model(name, tmp_path, seed=1)
    decoder = load_decoder(tmp_path, CPU, torch.float32)
    runner = PagedRunner(decoder, kernels, seed=2, page_size=PAGE_SIZE, num_pages=160)
    model = with_adapters(reference, seed=3)
    writer = RowWriter(runner, decoder.config.shape)
    for adapter in ADAPTERS:
        for layer in range(decoder.config.shape.num_layers):
            for module in MODULES:
                rows = lora_rows(model, adapter, layer, module)
                if rows is not None:
                    writer.write(adapter.slot, layer, module, rows)
    tables = writer.tables()
    wide, thin, rank_1 = ADAPTERS
    users = {"a": wide, "b": None, "c": thin, "d": rank_1, "e": wide, "f": None}
    generator = torch.Generator().manual_seed(4)
    prompts = {n: random_tokens(generator, 5 + 3 * i) for i, n in enumerate(users)}

    actual: dict[str, list[Tensor]] = {n: [] for n in users}
    for cut in (slice(0, 4), slice(4, -1), slice(-1, None)):  # two prefill chunks and a decode
        chunks = [(n, prompts[n][cut]) for n in users if prompts[n][cut]]
        pairs = make_pairs([(users[n], 1.0, len(tokens)) for n, tokens in chunks])
        logits = runner.step(chunks, LoraContext(tables, pairs))
        for (n, _), rows in zip(
            chunks, logits.split([len(tokens) for _, tokens in chunks]), strict=True
        ):
            actual[n].append(rows)

    for n, adapter in users.items():
        expected = adapter_logits(model, adapter, prompts[n])
        assert_same_logits(torch.cat(actual[n]), expected)
        if adapter is not None:  # the adapters do change something
            change = (expected - adapter_logits(model, None, prompts[n])).abs().max()
            assert change > 0.01 * expected.abs().max()


def test_a_factor_on_the_delta(tmp_path: Path) -> None:
    reference = save_tiny_model("llama", tmp_path, seed=5)
    decoder = load_decoder(tmp_path, CPU, torch.float32)
    runner = PagedRunner(decoder, ReferenceKernels(), seed=6, page_size=PAGE_SIZE, num_pages=160)
    model = with_adapters(reference, seed=7)
    writer = RowWriter(runner, decoder.config.shape)
    wide = ADAPTERS[0]
    for layer in range(decoder.config.shape.num_layers):
        for module in MODULES:
            rows = lora_rows(model, wide, layer, module)
            assert rows is not None
            writer.write(wide.slot, layer, module, rows)
    prompt = random_tokens(torch.Generator().manual_seed(8), 12)
    pairs = make_pairs([(wide, -0.75, len(prompt))])
    actual = runner.step([("a", prompt)], LoraContext(writer.tables(), pairs))
    for layer_name, layer_module in model.named_modules():
        if layer_name.endswith(tuple(NAMES)):
            layer_module.scaling[wide.name] *= -0.75
    assert_same_logits(actual, adapter_logits(model, wide, prompt))


def test_a_batch_without_adapters_runs_no_lora_kernel(tmp_path: Path) -> None:
    class NoLora(ReferenceKernels):
        @staticmethod
        def shrink(*_: object) -> Tensor:
            raise AssertionError("shrink was called")

        @staticmethod
        def expand(*_: object) -> None:
            raise AssertionError("expand was called")

    reference = save_tiny_model("llama", tmp_path)
    runner = PagedRunner(load_decoder(tmp_path, CPU, torch.float32), NoLora(), seed=9)
    prompt = random_tokens(torch.Generator().manual_seed(10), 6)
    assert_same_logits(runner.step([("a", prompt)]), reference_logits(reference, prompt))
