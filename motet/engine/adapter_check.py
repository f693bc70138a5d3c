"""Whether an adapter would load beside a model, and what it would take: without an engine.

Owns: this answer, for `motet check`.
Does not know: how it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from motet.adapters.peft_lora import load_adapter
from motet.adapters.report import AdapterReport, describe
from motet.memory.geometry import PageGeometry, lay_out_adapter, smallest_page_size
from motet.models.config import load_config


@dataclass(frozen=True)
class AdapterCheck:
    """The answer.

    Attributes:
        report: what the adapter holds, or why it is refused.
        num_pages: pages of the pool that it would take; None if it is refused.
        page_size: KV tokens in a page.
    """

    report: AdapterReport
    num_pages: int | None
    page_size: int


def check_adapter(directory: Path, model_dir: Path, page_size: int | None) -> AdapterCheck:
    """Read and check an adapter as the engine would.

    Args:
        directory: the adapter's.
        model_dir: the base model's.
        page_size: KV tokens in a page; None is what the engine would choose.

    Raises:
        ModelError: the model's config cannot be read.
        ConfigError: a page of this size does not hold a row.
    """
    shape = load_config(model_dir).shape
    geometry = PageGeometry(shape, page_size or smallest_page_size(shape))
    report = describe(directory, shape)
    if report.refusal is not None:
        return AdapterCheck(report, None, geometry.page_size)
    # Ranks may differ by layer, which the report leaves out.
    deltas = load_adapter(directory, shape).deltas
    layout = lay_out_adapter(geometry, {key: delta.rank for key, delta in deltas.items()})
    return AdapterCheck(report, layout.num_pages, geometry.page_size)
