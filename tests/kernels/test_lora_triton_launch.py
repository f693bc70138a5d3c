"""How the Triton kernels of LoRA are launched: from which values, on which stream, on what GPU."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from motet.kernels import lora_triton, lora_triton_kernels
from motet.kernels.triton_backend import TritonKernels
from motet.kernels.types import LoraPairs, LoraTables
from tests.kernels.conftest import SetSizes
from tests.kernels.lora_cases import build_case, build_pairs
from tests.kernels.test_lora import (
    HIDDEN,
    KV,
    LAYER,
    MODULES,
    NUM_LAYERS,
    QKV,
    random_ranks,
    to_device,
)
from tests.kernels.test_lora_triton import DEVICE, EXPAND, SHRINK


class Recorder:
    """Stands for a kernel, and keeps what each launch is made of but for its tensors."""

    def __init__(self) -> None:
        self.launches: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: object, **sizes: object) -> None:
            numbers = [a for a in args if not isinstance(a, Tensor)]
            self.launches.append((grid, numbers, sizes))

        return launch


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(lora_triton_kernels, "shrink", recorder)
    monkeypatch.setattr(lora_triton_kernels, "expand", recorder)
    return recorder


def launch_without_values(num_pairs: int, num_segments: int) -> None:
    """Shrink and expand of tensors on the meta device: a look at their values would fail."""

    def meta(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device="meta")

    pool = meta(NUM_LAYERS, 9, 4096, dtype=torch.bfloat16)
    tables = LoraTables(
        meta(999, dtype=torch.int64),
        meta(8, NUM_LAYERS, len(MODULES), 2, dtype=torch.int32),
        meta(8, NUM_LAYERS, len(MODULES), dtype=torch.int32),
    )
    pairs = LoraPairs(
        tokens=meta(num_pairs, dtype=torch.int32),
        slots=meta(num_pairs, dtype=torch.int32),
        weights=meta(num_pairs, dtype=torch.float32),
        segment_starts=meta(num_segments + 1, dtype=torch.int32),
        max_rank=16,
    )
    x = meta(num_pairs, HIDDEN, dtype=torch.bfloat16)
    y = meta(num_pairs, HIDDEN + 2 * KV, dtype=torch.bfloat16)
    v = lora_triton.shrink(x, pool, tables, pairs, LAYER, QKV)
    lora_triton.expand(v, pool, tables, pairs, LAYER, QKV, y)


@pytest.mark.parametrize(
    ("num_pairs", "num_segments", "by_segment"), [(1, 1, False), (32, 32, False), (90, 4, True)]
)
def test_a_launch_reads_no_value_and_is_the_same_again(
    recorder: Recorder, num_pairs: int, num_segments: int, by_segment: bool
) -> None:
    launch_without_values(num_pairs, num_segments)
    launch_without_values(num_pairs, num_segments)
    assert len(recorder.launches) == 4
    assert recorder.launches[:2] == recorder.launches[2:]
    for _, _, sizes in recorder.launches:
        assert sizes["BY_SEGMENT"] is by_segment


def test_narrow_siblings_have_no_programs_of_their_widest(
    recorder: Recorder, set_sizes: SetSizes
) -> None:
    set_sizes(SHRINK, EXPAND)
    launch_without_values(2, 2)
    (shrink_grid, _, _), (expand_grid, _, _) = recorder.launches
    assert shrink_grid == (2 * len(QKV), 1)  # 16 rank rows of each are a block
    assert expand_grid == (2 * (HIDDEN + 2 * KV) // 16,)


class FakeStream:
    """Writes down which stream waits for which."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def __enter__(self) -> None:
        self.log.append(f"on {self.name}")

    def __exit__(self, *_: object) -> None:
        self.log.append(f"off {self.name}")


def test_a_shrink_beside_the_product_is_ordered_by_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    main = FakeStream("main", log)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: FakeStream("side", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(lora_triton, "shrink", lambda *_: log.append("shrink"))
    monkeypatch.setattr(lora_triton, "expand", lambda *_: log.append("expand"))
    kernels = TritonKernels(shrink_beside_product=True)
    arguments = (None,) * 6
    v = kernels.shrink(*arguments)
    log.append("product")
    kernels.expand(v, *arguments)
    assert log == [
        "side waits for main",
        "on side",
        "shrink",
        "off side",
        "product",
        "main waits for side",
        "expand",
    ]


def test_the_backend_without_a_side_stream_needs_no_cuda() -> None:
    generator = torch.Generator().manual_seed(4)
    case = build_case(
        generator, MODULES, random_ranks(generator, 2, (3,)), num_slots=2, num_layers=NUM_LAYERS
    )
    pairs = build_pairs(generator, 4, [(0, 1), (1, 2)], max_rank=3)
    pool, tables, pairs = to_device(case, pairs, DEVICE)
    x = torch.randn(4, HIDDEN, generator=generator).to(DEVICE)
    direct = lora_triton.shrink(x, pool, tables, pairs, LAYER, QKV)
    through = TritonKernels().shrink(x, pool, tables, pairs, LAYER, QKV)
    assert torch.equal(direct.nan_to_num(), through.nan_to_num())
    outputs = [torch.ones(4, HIDDEN + 2 * KV, device=DEVICE) for _ in range(2)]
    lora_triton.expand(direct, pool, tables, pairs, LAYER, QKV, outputs[0])
    TritonKernels().expand(through, pool, tables, pairs, LAYER, QKV, outputs[1])
    assert torch.equal(*outputs)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from motet.kernels import lora_triton_dense_kernels as dense
from motet.kernels import lora_triton_kernels as kernels

FLOAT32 = ("v", "weights")
HALF = ("x", "y", "pool", "rows", "weighted")
INT32 = ("run_starts", "ranks", "tokens", "slots", "masks", "segment_starts", "siblings")
DIVISIBLE = ("x_stride", "y_stride", "in_features", "part_features", "max_rank", "width")

def report(label, kernel, constants, num_stages):
    types = dict.fromkeys(FLOAT32, "*fp32") | dict.fromkeys(HALF, "*bf16")
    types |= dict.fromkeys(INT32, "*i32") | {"row_offsets": "*i64"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {a: types.get(a, "i32") for a in kernel.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, a in enumerate(kernel.arg_names)
        if signature[a].startswith("*") or (a in DIVISIBLE and a not in constants)
    }
    source = ASTSource(kernel, signature, constants, attributes)
    options = dict(num_warps=4, num_stages=num_stages)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    print(label, "wide" if "ld.global.v4.b32" in ptx or "cp.async.cg" in ptx else "narrow",
          "tensor cores" if "mma" in ptx else "no tensor cores")

def shrink(label, num_stages=4, unmasked=dict(masks=None), **constants):
    defaults = dict(BLOCK_S=16, NUM_SIBLINGS=3)
    report("shrink " + label, kernels.shrink, unmasked | defaults | constants, num_stages)

def expand(label, num_stages, unmasked=dict(masks=None), **constants):
    defaults = dict(BLOCK_S=16, NUM_SIBLINGS=3, NUM_PARTS=1, NUM_TERMS=2, COLUMN_ALIGNMENT=8)
    report("expand " + label, kernels.expand, unmasked | defaults | constants, num_stages)

shrink("by slot", BY_SEGMENT=False, BLOCK_T=16, BLOCK_R=16, BLOCK_K=128)
shrink("by segment", BY_SEGMENT=True, BLOCK_T=64, BLOCK_R=64, BLOCK_K=64)
shrink("of some projections", unmasked={}, BY_SEGMENT=False, BLOCK_T=16, BLOCK_R=16, BLOCK_K=128)
shrink("rank 1", BY_SEGMENT=False, BLOCK_T=8, BLOCK_R=16, BLOCK_K=64, max_rank=1, num_layers=1,
       num_modules=1)
expand("by slot", 1, BY_SEGMENT=False, BLOCK_T=8, BLOCK_R=16, BLOCK_N=128, RUN_BLOCK=16)
expand("16 parts", 1, BY_SEGMENT=False, BLOCK_T=16, BLOCK_R=16, BLOCK_N=128, RUN_BLOCK=16,
       NUM_PARTS=16)
expand("by segment", 2, BY_SEGMENT=True, BLOCK_T=64, BLOCK_R=32, BLOCK_N=64, RUN_BLOCK=128)
expand("of some projections", 1, unmasked={}, BY_SEGMENT=False, BLOCK_T=8, BLOCK_R=16,
       BLOCK_N=128, RUN_BLOCK=16)
expand("rank 1", 1, BY_SEGMENT=False, BLOCK_T=8, BLOCK_R=16, BLOCK_N=64, RUN_BLOCK=16,
       max_rank=1, num_layers=1, num_modules=1)
report("gather", dense.gather_rows, dict(SIDE=0, BLOCK=1024), 2)
report("weigh", dense.weigh, dict(NUM_PARTS=1, NUM_TERMS=2, BLOCK_T=32, BLOCK_R=128), 2)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    """Machine code for Hopper, in another process: here Triton may be an interpreter."""
    code = "import os; os.environ.pop('TRITON_INTERPRET', None)\n" + COMPILE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "shrink by slot wide tensor cores",
        "shrink by segment wide tensor cores",
        "shrink of some projections wide tensor cores",
        "shrink rank 1 wide tensor cores",
        "expand by slot wide tensor cores",
        "expand 16 parts wide tensor cores",
        "expand by segment wide tensor cores",
        "expand of some projections wide tensor cores",
        "expand rank 1 wide tensor cores",
        "gather narrow no tensor cores",
        "weigh narrow no tensor cores",
    ]
