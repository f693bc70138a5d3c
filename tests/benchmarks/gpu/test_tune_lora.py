"""The tuner of the LoRA kernels, with a clock of its own; its kernels run in the interpreter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import tune_lora
from benchmarks.gpu.lora_tuning import batches
from benchmarks.gpu.lora_tuning.batches import LoraBatches, one_adapter
from benchmarks.gpu.lora_tuning.measure import Measure
from benchmarks.gpu.lora_tuning.search import EXPAND_CHOICES, SHRINK_CHOICES, fastest
from benchmarks.gpu.lora_tuning.table_file import render_table
from benchmarks.gpu.lora_tuning.work import ExpandWork, ShrinkWork
from motet.kernels import lora_triton_table as table
from motet.kernels.lora_triton_sizes import ExpandSizes, Shape, ShrinkSizes, all_classes

CPU = torch.device("cpu")
START = ExpandSizes(16, 16, 128, 4, 2)


def test_the_search_finds_the_least_of_independent_sizes() -> None:
    wanted = ExpandSizes(64, 32, 256, 8, 3)

    def measure(sizes: ExpandSizes) -> float:
        return 1.0 + sum(a != b for a, b in zip(sizes, wanted, strict=True))

    best, found = fastest(START, EXPAND_CHOICES, measure)
    assert best == wanted
    assert found == (6.0, 1.0)


def test_the_search_passes_over_what_cannot_be_launched_and_measures_nothing_twice() -> None:
    measured = []

    def measure(sizes: ExpandSizes) -> float | None:
        measured.append(sizes)
        return None if sizes.block_n > 128 else 1 / sizes.block_n

    best, _ = fastest(START._replace(block_n=64), EXPAND_CHOICES, measure)
    assert best == START
    assert len(measured) == len(set(measured))


def test_the_search_keeps_what_is_faster_by_noise_only() -> None:
    best, _ = fastest(START, EXPAND_CHOICES, lambda sizes: 1.0 if sizes == START else 0.98)
    assert best == START


@dataclass
class FakeWork:
    """Wrong with tiles of 32 pairs."""

    batches: LoraBatches = field(default_factory=lambda: one_adapter(1, 1, torch.float32, CPU))
    launched: list[tuple[ExpandSizes, int]] = field(default_factory=list)

    def launch(self, sizes: ExpandSizes, i: int) -> None:
        self.launched.append((sizes, i))

    def result(self, sizes: ExpandSizes) -> Tensor:
        return torch.tensor([1.0, 2.0 if sizes.block_t == 32 else 1.0])


def timer(launch_all: Callable[[], object]) -> float:
    launch_all()
    return 3.0


def test_sizes_with_another_result_are_reported_and_not_taken() -> None:
    report = tune_lora.Report()
    work = FakeWork()
    choices = {"block_t": (16, 32)}
    best = tune_lora.tune("some class", START, choices, work, timer, report)
    assert best == START
    assert report.wrong == ["some class: (32, 16, 128, 4, 2)"]
    assert work.launched == [(START, 0)]
    assert report.classes["some class"]["best_us"] == 3e6


def test_both_kernels_give_the_result_of_other_sizes() -> None:
    lora = one_adapter(3, 20, torch.float32, CPU)
    shrink, expand = ShrinkWork(lora), ExpandWork(lora)
    shrink_start, expand_start = ShrinkSizes(16, 16, 256, 1, 4, 2), START._replace(block_n=512)
    assert shrink.result(shrink_start).abs().max() > 0
    assert expand.result(expand_start).abs().max() > 0
    shrinks, expands = Measure(shrink, shrink_start, timer), Measure(expand, expand_start, timer)
    assert shrinks(shrink_start._replace(block_t=32, wanted_programs=9)) == 3.0
    assert expands(expand_start._replace(block_t=32, block_n=256)) == 3.0
    assert not shrinks.wrong
    assert not expands.wrong


@pytest.mark.parametrize("by_segment", [False, True])
def test_batches_have_adapters_and_rows_of_their_own(
    monkeypatch: pytest.MonkeyPatch, by_segment: bool
) -> None:
    monkeypatch.setattr(batches, "_BYTES_OF_ALL_BATCHES", 8_000_000)
    least = Shape(by_segment, 1, 1, 1)
    for build in (batches.shrink_batches, batches.expand_batches):
        lora = build(least, torch.bfloat16, CPU)
        slots = torch.cat([pairs.slots.unique() for pairs in lora.batches])
        assert len(lora.batches) > 1
        assert torch.equal(slots, torch.arange(len(lora.tables.ranks), dtype=torch.int32))
        rows = lora.tables.row_offsets.sort().values
        narrowest = min([lora.in_features, *(p.out_features for p in lora.projections)])
        assert (rows.diff() >= narrowest).all()
        assert rows[-1] < lora.pool.numel()
        last_runs = lora.tables.run_starts + lora.tables.ranks[..., None]
        assert last_runs.max() == len(rows)


def test_the_table_in_the_package_is_what_the_tuner_would_write() -> None:
    text = Path(table.__file__).read_text()
    source = text.split("Source: ")[1].split("\n")[0]
    shrink = {Shape(*key): ShrinkSizes(*value) for key, value in table.SHRINK.items()}
    expand = {Shape(*key): ExpandSizes(*value) for key, value in table.EXPAND.items()}
    assert render_table(source, shrink, expand) == text


def test_without_time_every_class_keeps_its_sizes() -> None:
    report = tune_lora.Report()
    shrink, expand = tune_lora.tune_all(CPU, timer, lambda: False, report)
    assert {tuple(k): tuple(v) for k, v in shrink.items()} == table.SHRINK
    assert {tuple(k): tuple(v) for k, v in expand.items()} == table.EXPAND
    assert list(shrink) == all_classes()
    assert not report.classes


def test_choices_name_sizes_that_there_are() -> None:
    assert set(SHRINK_CHOICES) == set(ShrinkSizes._fields)
    assert set(EXPAND_CHOICES) == set(ExpandSizes._fields)


def test_a_machine_without_a_gpu_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune_lora.main(["--output", str(tmp_path / "table.py")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
