"""Merge-and-swap says what batched LoRA says: the same greedy tokens as transformers and PEFT."""

import torch

from benchmarks.merge_and_swap.engine import VARIANT
from benchmarks.merge_and_swap.merged_weights import MergedWeights
from motet.core.config import EngineConfig
from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.engine.build import Variant
from motet.engine.engine import Runner
from motet.engine.runner import ModelRunner
from motet.memory.device_pool import DevicePool
from motet.memory.unified import UnifiedMemory
from motet.models.decoder import Decoder
from motet.scheduler.policies.fcfs import Fcfs
from tests.engine.test_generation import Session, World, world

__all__ = ["world"]


def config(world: World) -> EngineConfig:
    return EngineConfig(
        model=str(world.model_dir), device="cpu", pool_memory_bytes=1 << 22, num_threads=1
    )


def test_adapters_and_base_take_turns_and_say_what_they_should(world: World) -> None:
    session = Session(config(world), VARIANT)
    digests = {name: session.load(path) for name, path in world.adapter_dirs.items()}
    requests = {
        str(index): AddRequest(
            str(index),
            case.prompt,
            SamplingParams(max_tokens=len(case.expected), temperature=0.0),
            digests.get(case.adapter or ""),
        )
        for index, case in enumerate(world.cases)
    }
    tokens = session.generate(requests)
    for index, case in enumerate(world.cases):
        assert tokens[str(index)] == case.expected, case.adapter


def test_the_way_back_is_exact(world: World) -> None:
    kept: list[tuple[MergedWeights, UnifiedMemory]] = []

    def keep(
        decoder: Decoder, runner: ModelRunner, pool: DevicePool, memory: UnifiedMemory
    ) -> Runner:
        kept.append((MergedWeights(decoder, pool), memory))
        return runner

    session = Session(config(world), Variant(Fcfs, keep))
    digest = session.load(world.adapter_dirs["all"])
    request = AddRequest("r", [1, 2, 3], SamplingParams(max_tokens=1), digest)
    session.generate({"r": request})
    [(weights, memory)] = kept
    before = [tensor.clone() for tensor in weights.tensors()]
    weights.merge(memory.residency.slot(digest))
    assert any(not torch.equal(a, b) for a, b in zip(before, weights.tensors(), strict=True))
    weights.merge(None)
    assert all(torch.equal(a, b) for a, b in zip(before, weights.tensors(), strict=True))
