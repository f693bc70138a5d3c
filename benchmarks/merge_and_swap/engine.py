"""An engine that merges one adapter at a time into its weights: `python -m` this, as the engine
process of a server (`benchmarks/serve_config.py`).

Owns: the step that merges first if another adapter has its turn.
Does not know: whose turn it is (`one_adapter.py`), nor how weights are merged.
"""

import sys
import time
from functools import partial

import structlog

from benchmarks.merge_and_swap.merged_weights import MergedWeights
from benchmarks.merge_and_swap.one_adapter import OneAdapter
from motet.engine.build import Variant, build_engine
from motet.engine.engine import Runner
from motet.engine.process import Build, main
from motet.engine.runner import ModelRunner, PendingTokens
from motet.memory.device_pool import DevicePool
from motet.memory.residency import AdapterResidency
from motet.memory.unified import UnifiedMemory
from motet.models.decoder import Decoder
from motet.scheduler.sequence import Batch

_log = structlog.get_logger()


class MergingRunner:
    """Runs batches of one adapter over weights that have it merged, as the base model runs.

    Attributes:
        num_merges, merge_s: since the start.
    """

    def __init__(
        self, runner: ModelRunner, weights: MergedWeights, residency: AdapterResidency
    ) -> None:
        self._runner = runner
        self._weights = weights
        self._residency = residency
        self._merged: str | None = None
        self.num_merges = 0
        self.merge_s = 0.0

    @property
    def overlaps(self) -> bool:
        """Never: weights must not change under a step."""
        return False

    def launch(self, batch: Batch) -> PendingTokens:
        """Merge, if it is another adapter's turn, and compute the batch without LoRA."""
        assert all(chunk.sequence.members is None for chunk in batch.chunks), "only plain adapters"
        [digest] = {chunk.sequence.digest for chunk in batch.chunks}
        if digest != self._merged:
            self._merge(digest)
        for chunk in batch.chunks:
            chunk.sequence.slot = None
        return self._runner.launch(batch)

    def _merge(self, digest: str | None) -> None:
        start_s = time.perf_counter()
        self._weights.merge(None if digest is None else self._residency.slot(digest))
        self._merged = digest
        self.num_merges += 1
        self.merge_s += time.perf_counter() - start_s
        if self.num_merges & (self.num_merges - 1) == 0:  # 1, 2, 4, 8, …
            _log.info("merged", num_merges=self.num_merges, mean_s=self.merge_s / self.num_merges)


def _make_runner(
    decoder: Decoder, runner: ModelRunner, pool: DevicePool, memory: UnifiedMemory
) -> Runner:
    return MergingRunner(runner, MergedWeights(decoder, pool), memory.residency)


VARIANT = Variant(OneAdapter, _make_runner)


def _load_build() -> Build:
    return partial(build_engine, variant=VARIANT)


if __name__ == "__main__":
    sys.exit(main(_load_build))
