"""The dense products for a batch that is one adapter's alone."""

import dataclasses

import pytest
import torch

from motet.kernels import lora_triton
from motet.kernels import lora_triton_dense as dense
from motet.kernels import lora_triton_tiles as tiles
from motet.kernels.types import Projection
from tests.kernels.lora_cases import build_case, build_pairs
from tests.kernels.test_lora import (
    DOWN,
    GATE_UP,
    HAS_GPU,
    HIDDEN,
    KV,
    LAYER,
    MODULES,
    NUM_LAYERS,
    QKV,
    assert_matches,
    random_ranks,
    to_device,
)
from tests.kernels.test_lora_triton import DEVICE, DTYPES, EXPAND

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture
def small_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense products for small batches too; on a CPU there are none of 16 bits into 32."""
    monkeypatch.setattr(dense, "MIN_TOKENS", 4)
    monkeypatch.setattr(dense, "MIN_RANK", 1)
    if not HAS_GPU:
        monkeypatch.setattr(dense, "_product", lambda x, a: x.float() @ a.float().T)


@pytest.mark.usefixtures("small_dense")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("projections", [QKV, GATE_UP, DOWN], ids=["qkv", "gate and up", "down"])
@pytest.mark.parametrize("num_tokens", [4, 45])
def test_one_adapter_for_every_token(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    projections: tuple[Projection, ...],
    num_tokens: int,
) -> None:
    monkeypatch.delattr(tiles, "shrink")
    monkeypatch.delattr(tiles, "expand")
    generator = torch.Generator().manual_seed(num_tokens)
    ranks = random_ranks(generator, 2, (0, 3, 19))
    case = build_case(generator, MODULES, ranks, num_slots=2, num_layers=NUM_LAYERS, dtype=dtype)
    pairs = build_pairs(generator, num_tokens, [(1, num_tokens)], max_rank=19)
    assert_matches(lora_triton, case, pairs, projections, num_tokens, generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dense_products_add_the_parts_of_v(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    case = build_case(
        generator, MODULES, random_ranks(generator, 1, (5,)), num_slots=1, num_layers=2, dtype=dtype
    )
    pool, tables, pairs = to_device(case, build_pairs(generator, 6, [(0, 6)], 8), DEVICE)
    parts = torch.randn(3, 6, len(QKV), 8, generator=generator).to(DEVICE)
    y = torch.randn(6, HIDDEN + 2 * KV, generator=generator).to(DEVICE, dtype)
    expected = y.clone()
    dense.expand(parts, pool, tables, pairs, LAYER, QKV, y)
    tiles.expand(parts, pool, tables, pairs, LAYER, QKV, expected, tiles.whole(pairs), EXPAND)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)


def test_when_dense_products_pay() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(2048, 16)
    alone = build_pairs(generator, 2048, [(0, 2048)], max_rank=128)
    assert dense.pays(alone, x)
    assert not dense.pays(dataclasses.replace(alone, max_rank=16), x)
    of_some = torch.ones(2048, dtype=torch.int32)
    assert not dense.pays(dataclasses.replace(alone, siblings=of_some), x)
    assert not dense.pays(build_pairs(generator, 2048, [(0, 2047)], max_rank=128), x)
    assert not dense.pays(build_pairs(generator, 2048, [(0, 2040), (1, 8)], max_rank=128), x)
    assert not dense.pays(build_pairs(generator, 64, [(0, 64)], max_rank=128), x[:64])
