"""How the routed Triton kernels are launched: from which values, and for what GPU."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from motet.kernels import lora_triton_kernels, routing_triton, routing_triton_kernels
from motet.kernels.routing_triton import Layout
from motet.kernels.types import LoraPairs, LoraTables, RoutedTokens, Rule
from tests.kernels.test_lora import HIDDEN, KV, LAYER, MODULES, NUM_LAYERS, QKV


class Recorder:
    """Stands for a kernel, and keeps what each launch is made of but for its tensors."""

    def __init__(self) -> None:
        self.launches: list[tuple[object, ...]] = []

    def named(self, name: str) -> "RecordedKernel":
        return RecordedKernel(name, self.launches)


class RecordedKernel:
    def __init__(self, name: str, launches: list[tuple[object, ...]]) -> None:
        self.name, self.launches = name, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: object, **sizes: object) -> None:
            numbers = [a for a in args if not isinstance(a, Tensor)]
            self.launches.append((self.name, grid, numbers, sizes))

        return launch


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    for module, names in (
        (lora_triton_kernels, ("shrink", "expand")),
        (routing_triton_kernels, ("stack_rows", "weigh_gates", "weigh_stack", "weigh_ranks")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, recorder.named(name))
    return recorder


def launch_without_values(layout: Layout, num_tokens: int) -> None:
    """Tensors on the meta device: a look at their values would fail."""

    def meta(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device="meta")

    pool = meta(NUM_LAYERS, 9, 4096, dtype=torch.bfloat16)
    tables = LoraTables(
        meta(999, dtype=torch.int64),
        meta(30, NUM_LAYERS, len(MODULES), 2),
        meta(30, NUM_LAYERS, len(MODULES)),
    )
    gates = LoraPairs(
        tokens=meta(num_tokens),
        slots=meta(num_tokens),
        weights=meta(num_tokens, dtype=torch.float32),
        segment_starts=meta(2),
        max_rank=28,
    )
    routed = RoutedTokens(
        gates=gates,
        sets=meta(num_tokens),
        expert_slots=meta(1, 28),
        rules=meta(1, len(Rule)),
        inverse_temperatures=meta(1, dtype=torch.float32),
        thresholds=meta(1, dtype=torch.float32),
        max_choices=2,
        max_rank=8,
        usage=meta(num_tokens, 28, dtype=torch.float32),
    )
    x = meta(num_tokens, HIDDEN, dtype=torch.bfloat16)
    y = meta(num_tokens, HIDDEN + 2 * KV, dtype=torch.bfloat16)
    v, pairs = routing_triton.shrink_in(layout, x, pool, tables, routed, LAYER, QKV)
    routing_triton.expand(v, pool, tables, pairs, LAYER, QKV, y)


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (Layout.STACKED, ["stack_rows", "shrink", "weigh_gates", "weigh_stack", "expand"]),
        *(
            (
                layout,
                [
                    *("stack_rows", "shrink", "weigh_gates", "shrink", "weigh_ranks"),
                    *("expand", "expand"),
                ],
            )
            for layout in (Layout.GATHERED, Layout.GROUPED)
        ),
    ],
)
def test_a_launch_reads_no_value_and_is_the_same_again(
    recorder: Recorder, layout: Layout, names: list[str]
) -> None:
    launch_without_values(layout, 90)
    launch_without_values(layout, 90)
    assert [launch[0] for launch in recorder.launches] == 2 * names
    assert recorder.launches[: len(names)] == recorder.launches[len(names) :]


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from motet.kernels import routing_triton_kernels as kernels

TYPES = {"pool": "*bf16", "row_offsets": "*i64", "rows": "*i64", "order": "*i64"}
FLOAT32 = ("v", "weighted", "weights", "inverse_temperatures", "thresholds", "usage",
           "choice_weights")
NUMBERS = ("layer", "num_layers", "num_modules", "num_tokens", "num_pairs", "num_sets",
           "most_experts", "most_gates", "num_rounds", "width", "max_rank")

def report(label, kernel, **constants):
    types = dict.fromkeys(kernel.arg_names, "*i32") | dict.fromkeys(FLOAT32, "*fp32") | TYPES
    types |= dict.fromkeys(NUMBERS, "i32") | dict.fromkeys(constants, "constexpr")
    signature = {a: types[a] for a in kernel.arg_names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names)
                  if signature[a].startswith("*")}
    source = ASTSource(kernel, signature, constants, attributes)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=4))
    print(label)

STACK = dict(NUM_SIBLINGS=3, BLOCK_E=32, BLOCK_J=32, BLOCK_N=16)
report("stack", kernels.stack_rows, WITH_EXPERTS=True, **STACK)
report("stack of gates", kernels.stack_rows, WITH_EXPERTS=False, **STACK)
WEIGH = dict(NUM_SIBLINGS=3, NUM_PARTS=4, BLOCK_S=4, BLOCK_G=32)
report("choices", kernels.weigh_gates, **WEIGH)
report("one choice of one set", kernels.weigh_gates, num_sets=1, num_rounds=1, most_experts=1,
       most_gates=1, **WEIGH)
NO_LIST = dict.fromkeys(("choice_slots", "choice_weights", "choice_masks", "choice_keys"))
report("no list", kernels.weigh_gates, **NO_LIST, **WEIGH)
report("stack weights", kernels.weigh_stack, NUM_SIBLINGS=1, NUM_PARTS=4, BLOCK_J=256)
report("ranks", kernels.weigh_ranks, order=None, NUM_SIBLINGS=3, NUM_PARTS=4, BLOCK_J=16)
report("ranks in order", kernels.weigh_ranks, NUM_SIBLINGS=3, NUM_PARTS=1, BLOCK_J=16)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there() -> None:
    """Machine code for Hopper, in another process: here Triton may be an interpreter."""
    code = "import os; os.environ.pop('TRITON_INTERPRET', None)\n" + COMPILE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
