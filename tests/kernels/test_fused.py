"""The kernels between the matrix products, of every backend, against float64 computations."""

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from motet.kernels import attention_reference, fused_cpu, fused_reference
from motet.kernels.types import HeadTransform
from tests.kernels.attention_cases import dense_attention, make_case
from tests.kernels.fused_cases import (
    EPS,
    LAYER,
    KvCase,
    bits,
    expected_norm,
    expected_pool,
    expected_qkv,
    fence_holds,
    fenced,
    make_kv_case,
    ordered,
    rounded,
)

Backend = tuple[ModuleType, str]

BACKENDS: dict[str, Backend] = {
    "reference": (fused_reference, "cpu"),
    "cpu": (fused_cpu, "cpu"),
}
if find_spec("triton") is not None:  # there is no wheel of it for some platforms
    BACKENDS["triton"] = (
        import_module("motet.kernels.fused_triton"),
        "cuda" if torch.cuda.is_available() else "cpu",
    )
FAST_BACKENDS = [name for name in BACKENDS if name != "reference"]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALF_TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHARE_EQUAL = 0.98


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


def skip_what_is_not_interpreted(backend: Backend, dtype: torch.dtype) -> None:
    kernels, device = backend
    if kernels.__name__.endswith("triton") and device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter computes bfloat16 as integers")


def assert_rounded(actual: Tensor, expected: Tensor) -> None:
    """Equal to float64 numbers that were rounded to the dtype in the right places.

    In half precision nearly all are equal bit for bit, which no other places of rounding achieve;
    where float32 falls on the other side of a rounding, the neighbour is as good.
    """
    actual = actual.cpu()
    if actual.dtype == torch.float32:
        torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=2e-6)
        return
    tolerance = HALF_TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    share_equal = (actual.double() == expected).double().mean()
    assert actual.numel() == 0 or share_equal >= SHARE_EQUAL, f"only {share_equal} are equal"


# add_rms_norm


def norm_inputs(seed: int, num_tokens: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """residual, delta, weight. The residual stream outgrows what is added, as in a model."""
    rng = torch.Generator().manual_seed(seed)
    residual = 30 * torch.randn(num_tokens, size, generator=rng)
    delta = torch.randn(num_tokens, size, generator=rng)
    weight = torch.randn(size, generator=rng)
    return [x.to(dtype) for x in (residual, delta, weight)]


@pytest.mark.parametrize("has_delta", [False, True])
@pytest.mark.parametrize(("num_tokens", "size"), [(1, 576), (5, 1), (3, 37), (2, 1024), (7, 600)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm(backend, dtype, num_tokens, size, has_delta) -> None:
    skip_what_is_not_interpreted(backend, dtype)
    kernels, device = backend
    before, added, weight = norm_inputs(size, num_tokens, size, dtype)
    residual, delta = before.to(device, copy=True), added.to(device, copy=True)
    out = kernels.add_rms_norm(residual, delta if has_delta else None, weight.to(device), EPS)
    total = (before.double() + added.double()).to(dtype) if has_delta else before
    assert torch.equal(residual.cpu(), total)
    assert torch.equal(delta.cpu(), added)
    assert (out.shape, out.dtype) == ((num_tokens, size), dtype)
    assert out.is_contiguous()
    assert_rounded(out, expected_norm(total, weight, EPS))


@pytest.mark.parametrize("size", [4096, 14336])
def test_add_rms_norm_of_wide_rows(backend, size) -> None:
    kernels, device = backend
    before, delta, weight = norm_inputs(size, 2, size, torch.float16)
    total = (before.double() + delta.double()).half()
    out = kernels.add_rms_norm(before.to(device), delta.to(device), weight.to(device), EPS)
    assert_rounded(out, expected_norm(total, weight, EPS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_is_that_of_transformers(backend, dtype) -> None:
    """Bit for bit in the reference; elsewhere within one unit in the last place.

    float32 sums in another order, and comes within a few units.
    """
    skip_what_is_not_interpreted(backend, dtype)
    kernels, device = backend
    x, _, weight = norm_inputs(1, 9, 576, dtype)
    if kernels is not fused_reference:
        weight = weight.sign() * 2 ** weight.round()  # which scales a unit, and adds none
    norm = LlamaRMSNorm(576, EPS).to(dtype)
    with torch.inference_mode():
        norm.weight.copy_(weight)
        expected = norm(x)
        out = kernels.add_rms_norm(x.to(device), None, weight.to(device), EPS).cpu()
    if kernels is fused_reference:
        assert torch.equal(out, expected)
    elif dtype == torch.float32:
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=0)
    else:
        assert (ordered(out) - ordered(expected)).abs().max() <= 1


def test_norm_reads_and_writes_nothing_beside_its_rows(backend) -> None:
    kernels, device = backend
    inputs = norm_inputs(2, 3, 37, torch.float32)
    fences = [fenced(x, device) for x in inputs]
    (residual, _), (delta, _), (weight, _) = fences
    out = kernels.add_rms_norm(residual, delta, weight, EPS)
    assert_rounded(out, expected_norm(inputs[0] + inputs[1], inputs[2], EPS))
    assert all(fence_holds(buffer) for _, buffer in fences)


def test_a_nan_stays_in_its_row(backend) -> None:
    kernels, device = backend
    x, _, weight = norm_inputs(3, 3, 50, torch.float32)
    x[1, 7] = torch.nan
    out = kernels.add_rms_norm(x.to(device, copy=True), None, weight.to(device), EPS).cpu()
    assert out[1].isnan().all()
    assert_rounded(out[::2], expected_norm(x[::2], weight, EPS))


# rotate_and_write_kv


def check_kv(backend: Backend, case: KvCase) -> None:
    """q and k as computed in float64, v as it was; in the pool, exactly they, and nothing else."""
    kernels, device = backend
    given_to = case.to(device)
    qkv, buffer = fenced(case.qkv, device)
    kernels.rotate_and_write_kv(*replace(given_to, qkv=qkv).arguments())
    assert_rounded(qkv, expected_qkv(case))
    assert fence_holds(buffer)
    assert torch.equal(bits(qkv[:, -case.num_kv_heads :]), bits(case.qkv[:, -case.num_kv_heads :]))
    assert torch.equal(bits(given_to.pool), bits(expected_pool(case, qkv.cpu())))


@pytest.mark.parametrize(
    ("has_norm", "has_rotary"), [(False, False), (True, False), (False, True), (True, True)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate_and_write_kv(backend, dtype, has_norm, has_rotary) -> None:
    skip_what_is_not_interpreted(backend, dtype)
    case = make_kv_case(4, 23, has_norm=has_norm, has_rotary=has_rotary, dtype=dtype)
    check_kv(backend, case)
    if not has_norm and not has_rotary:
        assert torch.equal(expected_qkv(case), case.qkv.double())


@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (4, 1), (9, 3)])
def test_any_heads(backend, head_dim, num_heads, num_kv_heads) -> None:
    check_kv(
        backend,
        make_kv_case(
            head_dim + num_heads,
            3,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            page_size=5,
            dtype=torch.float16,
        ),
    )


def test_more_heads_than_one_program_takes(backend) -> None:
    check_kv(backend, make_kv_case(5, 2, num_heads=71, num_kv_heads=1, head_dim=32))


def test_one_token(backend) -> None:
    check_kv(backend, make_kv_case(6, 1))


def test_tokens_of_one_position_in_several_sequences(backend) -> None:
    case = make_kv_case(7, 6)
    positions = torch.full_like(case.positions, int(case.positions[2]))
    check_kv(backend, replace(case, positions=positions))


def test_tokens_without_a_slot_are_rotated_and_not_stored(backend) -> None:
    case = make_kv_case(8, 9)
    slots = case.kv_slots.clone()
    slots[[0, 4, 8]] = torch.tensor([-1, -(2**40), -1])
    check_kv(backend, replace(case, kv_slots=slots))
    check_kv(backend, replace(case, kv_slots=torch.full_like(slots, -1)))


def test_a_slot_past_2_to_the_31_elements(backend) -> None:
    """Memory that nobody touches costs nothing: most of the pool has no bytes behind it."""
    kernels, device = backend
    case = make_kv_case(9, 3, dtype=torch.float16).to(device)
    page_elems = case.pool.shape[2]
    num_pages = 2**31 // page_elems + 5
    pool = torch.empty(1, num_pages, page_elems, dtype=torch.float16, device=device)
    slots = case.page_size * torch.tensor([num_pages - 1, num_pages - 3, 0], device=device)
    kernels.rotate_and_write_kv(*replace(case, pool=pool, kv_slots=slots).arguments(layer=0))
    k, v = case.qkv[:, -4:-2], case.qkv[:, -2:]
    for t, page in enumerate((num_pages - 1, num_pages - 3, 0)):
        kv = pool[0, page].view(2, case.page_size, 2, 16)[:, 0]
        assert torch.equal(kv, torch.stack((k[t], v[t])))


def test_a_nan_stays_in_its_head(backend) -> None:
    """Also in v, where it keeps its bits."""
    case = make_kv_case(10, 3)
    case.qkv[1, 0, 3] = torch.nan
    case.qkv.view(torch.int32)[1, -1, 3] = 0x7FC12345
    expected = expected_qkv(case)
    kernels, device = backend
    moved = case.to(device)
    kernels.rotate_and_write_kv(*moved.arguments())
    assert moved.qkv[1, 0].isnan().all()
    moved.qkv[1, 0] = expected[1, 0] = 0
    assert torch.equal(bits(moved.qkv[:, -2:]), bits(case.qkv[:, -2:]))
    assert_rounded(moved.qkv[:, :-2], expected[:, :-2])


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_tokens=st.integers(1, 6),
    group=st.integers(1, 4),
    num_kv_heads=st.integers(1, 4),
    half=st.integers(1, 40),
    page_size=st.integers(1, 9),
    has_norm=st.booleans(),
    has_rotary=st.booleans(),
)
@pytest.mark.parametrize("name", BACKENDS)
def test_any_shape(
    name, seed, num_tokens, group, num_kv_heads, half, page_size, has_norm, has_rotary
) -> None:
    check_kv(
        BACKENDS[name],
        make_kv_case(
            seed,
            num_tokens,
            num_heads=group * num_kv_heads,
            num_kv_heads=num_kv_heads,
            head_dim=2 * half,
            page_size=page_size,
            has_norm=has_norm,
            has_rotary=has_rotary,
        ),
    )


def test_written_kv_is_what_attention_reads(backend) -> None:
    kernels, device = backend
    case = make_case(12, [20], [20])
    kv = case.pool[LAYER, case.batch.page_table[0].long()].view(-1, 2, 16, 2, 16)
    k, v = (kv[:, side].reshape(-1, 2, 16)[:20] for side in (0, 1))
    positions = torch.arange(20)
    slots = case.batch.page_table[0, positions // 16].long() * 16 + positions % 16
    q, pool, *rest = case.arguments("cpu")
    fresh = torch.full_like(pool, torch.nan, device=device)
    qkv = torch.cat((q, k, v), dim=1).to(device)
    as_it_is = HeadTransform(None, EPS, None)
    kernels.rotate_and_write_kv(
        qkv, as_it_is, positions.to(device), fresh, LAYER, slots.to(device), 16, 2
    )
    out = attention_reference.paged_attention(q, fresh.cpu(), *rest)
    torch.testing.assert_close(out.double(), dense_attention(case), rtol=2e-5, atol=2e-5)


# silu_mul


@pytest.mark.parametrize(("num_tokens", "size"), [(1, 1536), (3, 37), (2, 1025)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul(backend, dtype, num_tokens, size) -> None:
    skip_what_is_not_interpreted(backend, dtype)
    kernels, device = backend
    rng = torch.Generator().manual_seed(size)
    gate_up = (4 * torch.randn(num_tokens, 2 * size, generator=rng)).to(dtype)
    inside, buffer = fenced(gate_up, device)
    out = kernels.silu_mul(inside)
    gate, up = gate_up.double().split(size, dim=1)
    assert (out.shape, out.dtype) == ((num_tokens, size), dtype)
    assert out.is_contiguous()
    assert_rounded(out, rounded(rounded(gate / (1 + (-gate).exp()), dtype) * up, dtype))
    assert fence_holds(buffer)
    assert torch.equal(inside.cpu(), gate_up)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of Triton's interpreter
def test_silu_of_large_numbers(backend) -> None:
    kernels, device = backend
    gate = torch.tensor([[-3e38, -100.0, -0.0, 0.0, 100.0, 3e38, torch.inf]])
    out = kernels.silu_mul(torch.cat((gate, torch.ones_like(gate)), dim=1).to(device)).cpu()
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.0, 100.0, 3e38, torch.inf]])
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-30)


# all three


def test_no_tokens(backend) -> None:
    kernels, device = backend
    residual, delta, weight = norm_inputs(13, 0, 48, torch.float32)
    normed = kernels.add_rms_norm(residual.to(device), delta.to(device), weight.to(device), EPS)
    assert normed.shape == (0, 48)
    assert kernels.silu_mul(torch.empty(0, 48, device=device)).shape == (0, 24)
    check_kv(backend, make_kv_case(13, 0))


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_a_norm_that_would_read_foreign_memory_is_refused(name) -> None:
    kernels, device = BACKENDS[name]
    residual, delta, weight = (x.to(device) for x in norm_inputs(14, 4, 48, torch.float32))
    with pytest.raises(AssertionError, match="one for each column"):
        kernels.add_rms_norm(residual, delta, weight[:-1], EPS)
    with pytest.raises(AssertionError, match="pass equal shapes"):
        kernels.add_rms_norm(residual, delta[:1], weight, EPS)
    with pytest.raises(AssertionError, match=r"weight torch\.float16; convert one"):
        kernels.add_rms_norm(residual, delta, weight.half(), EPS)
    with pytest.raises(AssertionError, match=r"delta torch\.float16; convert one"):
        kernels.add_rms_norm(residual, delta.half(), weight, EPS)
    with pytest.raises(AssertionError, match="residual is a view with gaps"):
        kernels.add_rms_norm(residual[::2], delta[:2], weight, EPS)
    with pytest.raises(AssertionError, match="delta is a view with gaps"):
        kernels.add_rms_norm(residual[:2], delta[::2], weight, EPS)
    with pytest.raises(AssertionError, match="view it so"):
        kernels.add_rms_norm(residual[0], None, weight, EPS)


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_heads_that_would_touch_foreign_memory_are_refused(name) -> None:
    kernels, device = BACKENDS[name]
    case = make_kv_case(15, 4).to(device)
    norm, rotary = case.transform.norm, case.transform.rotary
    wrong: dict[str, dict[str, object]] = {
        "expected .num_tokens, heads, head_dim.": {"qkv": case.qkv[0]},
        "qkv is torch.float16, pool torch.float32; convert": {"qkv": case.qkv.half()},
        "qkv is a view with gaps": {"qkv": case.qkv.repeat(2, 1, 1)[::2]},
        "pool is a view with gaps": {"pool": case.pool[:, ::2]},
        "a page has 496 elements; expected 512": {"pool": case.pool[:, :, :-16].contiguous()},
        "none is left for q": {"num_kv_heads": 5},
        "pass a positive number": {"num_kv_heads": 0},
        "head_dim is 15": {"qkv": case.qkv[:, :, :15].contiguous()},
        "positions has shape .3,. for 4 tokens": {"positions": case.positions[:3]},
        "positions is torch.int32": {"positions": case.positions.int()},
        "kv_slots has shape .3,. for 4 tokens": {"kv_slots": case.kv_slots[:3]},
        "kv_slots is torch.int32": {"kv_slots": case.kv_slots.int()},
        "kv_slots is a view with gaps": {"kv_slots": case.kv_slots.repeat(2)[::2]},
        "expected a row of 16 for each of 8 heads": {
            "transform": HeadTransform(norm[:1], EPS, rotary)
        },
        "expected .positions, 2, 8.": {
            "transform": HeadTransform(norm, EPS, rotary[:, :, :4].contiguous())
        },
        "norm torch.float16; convert one": {"transform": HeadTransform(norm.half(), EPS, None)},
        "rotary is a view with gaps": {"transform": HeadTransform(None, EPS, rotary[::2])},
    }
    for message, change in wrong.items():
        with pytest.raises(AssertionError, match=message):
            kernels.rotate_and_write_kv(*replace(case, **change).arguments())
    assert case.pool.isnan().all()


@pytest.mark.parametrize("name", FAST_BACKENDS)
def test_a_product_that_would_read_foreign_memory_is_refused(name) -> None:
    kernels, device = BACKENDS[name]
    gate_up = torch.ones(4, 8, device=device)
    with pytest.raises(AssertionError, match="expected an even number"):
        kernels.silu_mul(gate_up[:, :7].contiguous())
    with pytest.raises(AssertionError, match="gate_up is a view with gaps"):
        kernels.silu_mul(gate_up[::2])
    with pytest.raises(AssertionError, match="view it so"):
        kernels.silu_mul(gate_up[0])


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from motet.kernels import fused_triton_kernels as kernels

OTHER = dict(positions_ptr="*i64", slots_ptr="*i64", eps="fp32", size="i32")
CONSTANTS = dict(block=4096, num_heads=32, num_kv_heads=8, head_dim=128, page_size=16,
                 block_heads=8, block_half=64)
LAUNCHES = [
    ("add_rms_norm_kernel", 16, ()),
    ("add_rms_norm_kernel", 16, ("delta_ptr",)),
    ("rotate_and_write_kv_kernel", 2, ()),
    ("rotate_and_write_kv_kernel", 2, ("norm_ptr",)),
    ("rotate_and_write_kv_kernel", 2, ("norm_ptr", "rotary_ptr")),
    ("silu_mul_kernel", 16, ()),
]

for name, num_warps, absent in LAUNCHES:
    kernel = getattr(kernels, name)
    constants = {a: v for a, v in CONSTANTS.items() if a in kernel.arg_names}
    constants |= dict.fromkeys(absent)
    types = OTHER | dict.fromkeys(constants, "constexpr")
    signature = {a: types.get(a, "*bf16") for a in kernel.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, a in enumerate(kernel.arg_names)
        if signature[a].startswith("*") or a == "size"
    }
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", 90, 32)
    ptx = triton.compile(source, target=target, options=dict(num_warps=num_warps)).asm["ptx"]
    print(name, *absent, "wide" if "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx
          and "st.global.b16" not in ptx else "narrow")
"""


@pytest.mark.slow
@pytest.mark.skipif("triton" not in BACKENDS, reason="no Triton on this platform")
def test_triton_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    """Machine code for Hopper, in another process: here Triton may be an interpreter."""
    code = "import os; os.environ.pop('TRITON_INTERPRET', None)\n" + COMPILE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "add_rms_norm_kernel wide",
        "add_rms_norm_kernel delta_ptr wide",
        "rotate_and_write_kv_kernel wide",
        "rotate_and_write_kv_kernel norm_ptr wide",
        "rotate_and_write_kv_kernel norm_ptr rotary_ptr wide",
        "silu_mul_kernel wide",
    ]
