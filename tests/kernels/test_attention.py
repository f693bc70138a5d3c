"""Paged attention of every backend against a dense float64 computation."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.kernels import attention_cpu, attention_reference
from tests.kernels.attention_cases import LAYER, Case, dense_attention, make_case
from tests.kernels.cpu_cases import thread_counts, threads

BACKENDS: dict[str, tuple[ModuleType, str]] = {
    "reference": (attention_reference, "cpu"),
    "cpu": (attention_cpu, "cpu"),
}
try:
    from motet.kernels import attention_triton
except ImportError:  # no wheel of Triton for this platform
    pass
else:
    BACKENDS["triton"] = (attention_triton, "cuda" if torch.cuda.is_available() else "cpu")

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> tuple[ModuleType, str]:
    return BACKENDS[request.param]


def check(backend: tuple[ModuleType, str], case: Case) -> None:
    kernels, device = backend
    out = kernels.paged_attention(*case.arguments(device))
    assert out.shape == case.q.shape
    assert out.dtype == case.q.dtype
    assert out.is_contiguous()
    tolerance = TOLERANCE[case.q.dtype]
    torch.testing.assert_close(
        out.cpu().double(), dense_attention(case), rtol=tolerance, atol=tolerance
    )


# Decode, a chunk in the middle of a prompt, a whole prompt, a chunk of few tokens.
MIXED_QUERY_LENS = [1, 37, 29, 1, 3]
MIXED_CONTEXT_LENS = [50, 90, 29, 1, 17]


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(2, 2), (6, 2), (4, 1)])
def test_mixed_batch(backend, head_dim, num_heads, num_kv_heads) -> None:
    check(
        backend,
        make_case(
            head_dim + num_heads,
            MIXED_QUERY_LENS,
            MIXED_CONTEXT_LENS,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
        ),
    )


@pytest.mark.parametrize("page_size", [8, 16, 20])
def test_contexts_around_page_boundaries(backend, page_size) -> None:
    context_lens = [n * page_size + e for n in (1, 3) for e in (-1, 0, 1)]
    query_lens = [1] * len(context_lens)
    check(backend, make_case(1, query_lens, context_lens, page_size=page_size))
    check(backend, make_case(2, context_lens, context_lens, page_size=page_size))
    chunks = [page_size - 1] * len(context_lens)
    check(backend, make_case(3, chunks, context_lens, page_size=page_size))


@pytest.mark.parametrize("sliding_window", [1, 15, 16, 17, 40, 1000])
def test_sliding_window(backend, sliding_window) -> None:
    check(
        backend,
        make_case(4, MIXED_QUERY_LENS, MIXED_CONTEXT_LENS, sliding_window=sliding_window),
    )


def test_one_token(backend) -> None:
    check(backend, make_case(5, [1], [1]))


def test_group_of_one_token_is_wider_than_a_tile(backend) -> None:
    check(backend, make_case(6, [5, 1], [9, 20], num_heads=71, num_kv_heads=1))


@pytest.mark.parametrize("seed", range(4))
def test_random_batches(backend, seed) -> None:
    rng = torch.Generator().manual_seed(seed)
    context_lens = torch.randint(1, 200, (6,), generator=rng).tolist()
    query_lens = [int(torch.randint(1, n + 1, (), generator=rng)) for n in context_lens]
    query_lens = [1 if i % 2 else n for i, n in enumerate(query_lens)]
    check(backend, make_case(seed, query_lens, context_lens))


@pytest.mark.parametrize("sliding_window", [None, 300])
def test_long_decode(backend, sliding_window) -> None:
    """Long enough to be cut into splits."""
    check(backend, make_case(7, [1, 1], [700, 1300], sliding_window=sliding_window))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_pool(backend, dtype) -> None:
    kernels, device = backend
    if kernels.__name__.endswith("triton") and device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bfloat16 as integers")
    check(backend, make_case(8, MIXED_QUERY_LENS, MIXED_CONTEXT_LENS, head_dim=64, dtype=dtype))


def test_sequences_do_not_depend_on_their_neighbours(backend) -> None:
    """A NaN in one sequence's KV stays in that sequence."""
    kernels, device = backend
    case = make_case(9, MIXED_QUERY_LENS, MIXED_CONTEXT_LENS)
    case.pool[LAYER, case.batch.page_table[1, 0]] = torch.nan
    out = kernels.paged_attention(*case.arguments(device)).cpu()
    expected = dense_attention(case)
    start, end = case.batch.query_starts[1:3].tolist()
    assert out[start:end].isnan().all()
    out[start:end] = 0
    expected[start:end] = 0
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=2e-5)


def test_empty_sequence_among_others(backend) -> None:
    """A sequence without tokens in this batch (padding of a captured graph) is passed over."""
    check(backend, make_case(10, [1, 0, 20], [33, 0, 40]))


def test_bounds_above_the_truth(backend) -> None:
    """As in a captured graph, whose grids are made for the longest contexts there can be."""
    for query_lens in ([1, 1, 1], [1, 7, 0]):
        case = make_case(11, query_lens, [900, 7, 130])
        check(backend, replace(case, batch=replace(case.batch, max_context_len=2**17)))
        check(backend, replace(case, batch=replace(case.batch, max_query_len=2**10)))


@pytest.fixture
def fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # which has torch fill what it allocates
    assert torch.empty(0).new_empty(5).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif("triton" not in BACKENDS, reason="no Triton on this platform")
@pytest.mark.usefixtures("fresh_memory_is_nan")
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # holds for all examples alike
)
@given(
    seed=st.integers(0, 2**31),
    lens=st.lists(
        st.sampled_from([(1, 1), (1, 40), (1, 64), (1, 65), (1, 128), (1, 400), (0, 50), (3, 70)]),
        min_size=1,
        max_size=7,
    ),
    num_shares=st.integers(1, 12),
    sliding_window=st.sampled_from([None, 30, 100]),
)
def test_triton_shares_out_any_contexts(seed, lens, num_shares, sliding_window) -> None:
    """Whatever is cut where: in a sequence or between two, once or often, or not at all."""
    query_lens, context_lens = (list(each) for each in zip(*lens, strict=True))
    case = make_case(
        seed, query_lens, context_lens, num_heads=2, num_kv_heads=1, sliding_window=sliding_window
    )
    with mock.patch.object(attention_triton, "_num_shares", return_value=num_shares):
        check(BACKENDS["triton"], case)


@pytest.mark.skipif("triton" not in BACKENDS, reason="no Triton on this platform")
def test_triton_starts_no_more_programs_than_run_at_once() -> None:
    device = torch.device("cpu")
    at_once = attention_triton.SHARES_PER_SM * attention_triton._num_sms(device)
    for num_seqs, context_len in ((1, 1), (1, 64), (1, 65), (1, 10**6), (300, 10**6)):
        batch = make_case(12, [1], [context_len % 100 + 1]).batch
        batch = replace(
            batch, max_context_len=context_len, context_lens=batch.context_lens.repeat(num_seqs)
        )
        num_shares = attention_triton._num_shares(batch, 2, None, device)
        assert 1 <= num_shares <= max(1, at_once // 2)
        assert num_shares <= num_seqs * -(-context_len // attention_triton.BLOCK_KEYS)
        assert attention_triton._num_shares(batch, 2, 64, device) <= num_seqs


def test_no_tokens(backend) -> None:
    kernels, device = backend
    q, *rest = make_case(13, [1], [5]).arguments(device)
    out = kernels.paged_attention(q[:0], *rest)
    assert out.shape == (0, 6, 16)


@pytest.mark.parametrize("name", ["cpu", "triton"])
def test_what_would_read_foreign_memory_is_refused(name) -> None:
    if name not in BACKENDS:
        pytest.skip("no Triton on this platform")
    kernels, device = BACKENDS[name]
    q, pool, *rest = make_case(14, [1], [5]).arguments(device)
    with pytest.raises(AssertionError, match="a page has 1008 elements; expected 1024"):
        kernels.paged_attention(q, pool[:, :, :-16], *rest)
    with pytest.raises(AssertionError, match="view with gaps"):
        kernels.paged_attention(q, pool[:, ::2], *rest)
    with pytest.raises(AssertionError, match="convert q"):
        kernels.paged_attention(q.half(), pool, *rest)


@pytest.mark.parametrize(
    ("query_lens", "context_lens"),
    [
        (MIXED_QUERY_LENS * 3, MIXED_CONTEXT_LENS * 3),
        # Decodes, whose KV heads stay together where there are enough of them for the threads.
        ([1] * 5, MIXED_CONTEXT_LENS),
        ([1] * 9, [30 + 9 * i for i in range(9)]),
    ],
)
def test_cpu_result_does_not_depend_on_the_number_of_threads(query_lens, context_lens) -> None:
    arguments = make_case(15, query_lens, context_lens).arguments("cpu")
    results = []
    for counts in thread_counts():
        with threads(*counts):
            results.append(attention_cpu.paged_attention(*arguments))
    assert all(torch.equal(each, results[0]) for each in results)


def test_cpu_result_does_not_depend_on_other_sequences() -> None:
    context_lens = [30 + 9 * i for i in range(9)]
    q, pool, layer, batch, *rest = make_case(16, [1] * 9, context_lens).arguments("cpu")
    together = attention_cpu.paged_attention(q, pool, layer, batch, *rest)
    for i in range(9):
        own = replace(
            batch,
            page_table=batch.page_table[i : i + 1],
            query_starts=batch.query_starts[:2],
            context_lens=batch.context_lens[i : i + 1],
        )
        alone = attention_cpu.paged_attention(q[i : i + 1], pool, layer, own, *rest)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("name", ["query_starts", "context_lens"])
def test_cpu_refuses_gaps_in_what_it_reads(name) -> None:
    q, pool, layer, batch, *rest = make_case(17, [1, 1], [5, 9]).arguments("cpu")
    values = getattr(batch, name)
    gapped = replace(batch, **{name: torch.stack((values, values), dim=1)[:, 0]})
    with pytest.raises(AssertionError, match=f"{name} must be contiguous"):
        attention_cpu.paged_attention(q, pool, layer, gapped, *rest)


COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from motet.kernels import attention_triton_kernels as kernels

OTHER = dict(sums_ptr="*fp32", stats_ptr="*fp32", scale="fp32", page_table_ptr="*i32",
             query_starts_ptr="*i32", context_lens_ptr="*i32")
CONSTANTS = dict(window=64, group=4, num_kv_heads=8, head_dim=128, page_size=16, num_shares=49,
                 block_dim=128, block_keys=64, block_seqs=256, block_shares=64)
LAUNCHES = [("decode_kernel", 16, 4), ("combine_kernel", 0, 4), ("prefill_kernel", 128, 8)]

for name, block_rows, num_warps in LAUNCHES:
    kernel = getattr(kernels, name)
    constants = CONSTANTS | dict(block_rows=block_rows)
    constants = {a: v for a, v in constants.items() if a in kernel.arg_names}
    types = OTHER | dict.fromkeys(constants, "constexpr")
    half = ("q_ptr", "pages_ptr", "out_ptr")
    signature = {a: types.get(a, "*bf16" if a in half else "i32") for a in kernel.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, a in enumerate(kernel.arg_names)
        if signature[a].startswith("*") or a.endswith("_stride")
    }
    source = ASTSource(kernel, signature, constants, attributes)
    options = dict(num_warps=num_warps, num_stages=5)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = compiled.asm["ptx"]
    print(name, "wide" if "ld.global.v4.b32" in ptx or "cp.async.cg" in ptx else "narrow",
          "tensor cores" if "mma" in ptx else "no tensor cores",
          "ahead" if re.search("async_wait .*num = [1-9]", compiled.asm["ttgir"]) else "in turn",
          compiled.metadata.shared // 1000, "kB")
"""


@pytest.mark.slow
def test_triton_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    """Machine code for Hopper, in another process: here Triton may be an interpreter.

    "ahead": a block of keys is still on its way while the one before is computed.
    """
    if "triton" not in BACKENDS:
        pytest.skip("no Triton on this platform")
    code = "import os; os.environ.pop('TRITON_INTERPRET', None)\n" + COMPILE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "decode_kernel wide tensor cores ahead 72 kB",
        "combine_kernel wide no tensor cores in turn 2 kB",
        "prefill_kernel wide tensor cores ahead 131 kB",
    ]
