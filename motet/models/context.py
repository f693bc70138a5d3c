"""Everything that one forward pass is given besides its tokens.

Owns: `ForwardContext`, which takes the place of any ambient state.
Does not know: who builds it (`engine/`), nor how a kernel uses it.
"""

from dataclasses import dataclass

from torch import Tensor

from motet.kernels.types import AttentionBatch, Kernels, LoraPairs, LoraTables, RoutedTokens


@dataclass(frozen=True, slots=True)
class LoraContext:
    """The adapters of a batch.

    Attributes:
        tables: where the rank rows of every resident adapter lie.
        pairs: which tokens of this batch use which of them in all layers and projections: those of
            plain adapters and of compositions. None without any.
        routed: tokens whose adapters a router chooses in each projection; None without any.
        blocks: tokens whose adapters a router chooses once for a whole MLP block; None without any.
    """

    tables: LoraTables
    pairs: LoraPairs | None
    routed: RoutedTokens | None = None
    blocks: RoutedTokens | None = None


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """One batch: where its KV goes, what it attends to, and which adapters it uses.

    Attributes:
        pool: the page pool, [num_layers, num_pages, page_elems], in the model's dtype.
        kernels: the device's kernels.
        attention: the sequences of the batch and their pages.
        positions: int64 [num_tokens]. Position of each token in its sequence.
        kv_slots: int64 [num_tokens]. Where the KV of each token is stored.
        lora: None for a batch without adapters, which then runs no LoRA kernel at all.
    """

    pool: Tensor
    kernels: Kernels
    attention: AttentionBatch
    positions: Tensor
    kv_slots: Tensor
    lora: LoraContext | None
