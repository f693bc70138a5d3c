"""What a plan says: how much of everything is checked and measured.

Owns: the names of sizes, lengths, counts and the time for all of it.
Does not know: their values (`plans.py`), nor how a part measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from motet.core.shape import Module
from motet.models.config import DecoderConfig, parse_config

ATTENTION_MODULES = (Module.Q, Module.K, Module.V, Module.O)


@dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """What the kernels are checked on.

    Attributes:
        lora_ranks: of the adapters, in turns.
        num_decode_tokens: of a decode batch, most with an adapter of their own.
        prefill_segments: tokens of each adapter in a prefill batch.
        num_single_tokens: of a prefill with one adapter.
        routed: (tokens, experts, rank) of the batches of routed sets.
        decode_contexts: of the sequences of a decode batch.
        prefill_chunks: (new tokens, context) of the sequences of a prefill batch.
        sliding_window: for attention with a window.
        num_fused_tokens: of the batches of the fused kernels.
    """

    dtypes: tuple[torch.dtype, ...]
    lora_ranks: tuple[int, ...]
    num_decode_tokens: int
    prefill_segments: tuple[int, ...]
    num_single_tokens: int
    routed: tuple[tuple[int, int, int], ...]
    decode_contexts: tuple[int, ...]
    prefill_chunks: tuple[tuple[int, int], ...]
    sliding_window: int
    num_fused_tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class KernelPlan:
    """What the kernels are timed on.

    Attributes:
        lora_decodes: (sequences, distinct adapters) of the decode batches, at `rank`.
        mixed_ranks: of the adapters of a mixed batch, in turns.
        num_mixed: sequences of that batch, each with its own adapter.
        prefill: (tokens, adapters).
        routed_experts, routed_tokens: of the batches of a routed set, each with each.
        routed_rank: of its experts.
        attention: (sequences, context) of the decode batches.
        num_fused_tokens: of the batches of the fused kernels.
        num_rounds: of each.
    """

    rank: int
    lora_decodes: tuple[tuple[int, int], ...]
    mixed_ranks: tuple[int, ...]
    num_mixed: int
    prefill: tuple[int, int]
    routed_experts: tuple[int, ...]
    routed_tokens: tuple[int, ...]
    routed_rank: int
    attention: tuple[tuple[int, int], ...]
    num_fused_tokens: tuple[int, ...]
    num_rounds: int


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """What the whole engine is timed on.

    Attributes:
        rank: of the adapters, on all seven projections.
        base_batches: sequences of the decode steps of the base model that have a target.
        lora_decodes: (sequences, distinct adapters) of the decode steps with adapters.
        mixed_ranks: of the adapters of one more such step, in turns.
        num_mixed: sequences of that step, each with its own adapter.
        num_prompt_tokens: context before the first timed step.
        num_warm_up_steps, num_steps: decode steps before, and within, one measurement.
        num_repeats: of each; the sides take turns.
        prefill: (tokens, adapters); each adapter has as many tokens.
        pool_memory_bytes: None is the engine's default.
        compared_pool_bytes: of each of two engines that are compared with one another.
    """

    rank: int
    base_batches: tuple[int, ...]
    lora_decodes: tuple[tuple[int, int], ...]
    mixed_ranks: tuple[int, ...]
    num_mixed: int
    num_prompt_tokens: int
    num_warm_up_steps: int
    num_steps: int
    num_repeats: int
    prefill: tuple[int, int]
    pool_memory_bytes: int | None
    compared_pool_bytes: int


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """What the adapters of a setting of S-LoRA have in common; ranks go round."""

    ranks: tuple[int, ...]
    modules: tuple[Module, ...] = ATTENTION_MODULES


@dataclass(frozen=True, kw_only=True)
class TracePlan:
    """S-LoRA's table.

    Attributes:
        num_adapters: of each column; the others are compared with the first.
        tokens: of prompts and of outputs, from the first to just below the second.
        num_outstanding: requests that are in the engine at all times, running or waiting.
        warm_up_s, measured_s: of each cell. Nothing before `warm_up_s` counts.
    """

    num_adapters: tuple[int, ...]
    tokens: tuple[int, int]
    num_outstanding: int
    warm_up_s: float
    measured_s: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is checked and measured, within `budget_s`."""

    name: str
    model: Mapping[str, Any]
    dtype: torch.dtype
    copy_bytes: int
    check: CheckPlan
    kernels: KernelPlan
    engine: EnginePlan
    trace: TracePlan
    budget_s: float

    @property
    def config(self) -> DecoderConfig:
        return parse_config(self.model)
