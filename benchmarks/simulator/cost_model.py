"""What a step takes on a device, and what bringing an adapter in does.

Owns: the formula.
Does not know: the device's constants (`devices.py`), nor why a step is what it is.

A step waits for one thing after another:

    fixed + sequences + dense + attention + LoRA + collectives

    dense        the longer of: reading all weights once; multiplying them with all tokens
    attention    reading the KV of each sequence's context; multiplying it with the new tokens
    LoRA         reading each distinct adapter once; multiplying; launches in each layer
    collectives  tensor parallel: two all-reduces of the hidden states in each layer, and with
                 adapters one all-gather and one all-reduce of their intermediates, which are so
                 short that they take the least that a collective takes
"""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulator.devices import Device
from benchmarks.simulator.models import ATTENTION, kv_elems, module_elems, step_elems
from motet.core.shape import ModelShape
from motet.scheduler.sequence import Batch


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What one step has to do.

    Attributes:
        num_sequences, num_tokens: in the batch.
        num_context_tokens: whose KV is read, of all sequences together.
        num_pairs: of a new token and a token of its context.
        adapter_elems: of all distinct adapters.
        lora_products: elements times tokens, summed over adapters.
    """

    num_sequences: int
    num_tokens: int
    num_context_tokens: int
    num_pairs: int = 0
    adapter_elems: int = 0
    lora_products: int = 0


def work_of(batch: Batch, elems_of: Callable[[str], int]) -> StepWork:
    """What a batch amounts to; `elems_of` tells the elements of an adapter by digest."""
    num_tokens = num_context_tokens = num_pairs = 0
    tokens_of: dict[str, int] = {}
    for chunk in batch.chunks:
        num_new_tokens, end = chunk.num_new_tokens, chunk.end
        num_tokens += num_new_tokens
        num_context_tokens += end
        num_pairs += num_new_tokens * end
        for digest in chunk.sequence.adapters:
            tokens_of[digest] = tokens_of.get(digest, 0) + num_new_tokens
    elems = {digest: elems_of(digest) for digest in tokens_of}
    return StepWork(
        num_sequences=len(batch.chunks),
        num_tokens=num_tokens,
        num_context_tokens=num_context_tokens,
        num_pairs=num_pairs,
        adapter_elems=sum(elems.values()),
        lora_products=sum(elems[digest] * count for digest, count in tokens_of.items()),
    )


class CostModel:
    """Seconds on a device.

    Args:
        shape: the decoder.
        elem_bytes: of weights, KV and adapters.
    """

    def __init__(self, shape: ModelShape, elem_bytes: int, device: Device) -> None:
        self._shape = shape
        self._device = device
        self._elem_bytes = elem_bytes
        self._weight_elems = step_elems(shape)
        self._kv_bytes = kv_elems(shape) * elem_bytes
        self._bytes_per_s = device.num_gpus * device.adapter_bytes_per_s
        self._flops_per_s = device.num_gpus * device.flops_per_s

    def step_s(self, work: StepWork) -> float:
        """What a step takes; 0 for one without tokens."""
        if work.num_tokens == 0:
            return 0.0
        fixed_s = self._device.step_s + work.num_sequences * self._device.sequence_s
        return (
            fixed_s
            + self._dense_s(work)
            + self._attention_s(work)
            + self._lora_s(work)
            + self._collectives_s(work)
        )

    def swap_s(self, old_elems: int, new_elems: int) -> float:
        """Take one adapter out of the weights it was merged into, and merge another.

        Each is a pass over these weights, which reads and writes them, and a product of A and B.

        Args:
            old_elems, new_elems: of the adapters' rows; 0 is none.
        """
        touched_elems = module_elems(self._shape, ATTENTION)
        return sum(
            (2 * touched_elems + elems) * self._elem_bytes / self._bytes_per_s
            + elems * self._shape.hidden_size / self._flops_per_s
            for elems in (old_elems, new_elems)
            if elems
        )

    def copy_s(self, num_bytes: int) -> float:
        """From host memory to the device."""
        return self._device.copy_s + num_bytes / self._device.copy_bytes_per_s

    def read_s(self, num_bytes: int) -> float:
        """From disk to host memory."""
        return self._device.read_s + num_bytes / self._device.read_bytes_per_s

    def _dense_s(self, work: StepWork) -> float:
        rate = self._device.num_gpus * self._device.weights_bytes_per_s
        bytes_s = self._weight_elems * self._elem_bytes / rate
        return max(bytes_s, 2 * self._weight_elems * work.num_tokens / self._flops_per_s)

    def _attention_s(self, work: StepWork) -> float:
        rate = self._device.num_gpus * self._device.kv_bytes_per_s
        flops = 4 * self._shape.num_layers * self._shape.q_size * work.num_pairs
        return work.num_context_tokens * self._kv_bytes / rate + flops / self._flops_per_s

    def _lora_s(self, work: StepWork) -> float:
        if work.adapter_elems == 0:
            return 0.0
        return (
            work.adapter_elems * self._elem_bytes / self._bytes_per_s
            + 2 * work.lora_products / self._flops_per_s
            + self._shape.num_layers * self._device.lora_layer_s
        )

    def _collectives_s(self, work: StepWork) -> float:
        num_gpus = self._device.num_gpus
        if num_gpus == 1:
            return 0.0
        num_bytes = work.num_tokens * self._shape.hidden_size * self._elem_bytes
        reduce_s = 2 * (num_gpus - 1) / num_gpus * num_bytes / self._device.link_bytes_per_s
        num_short = 2 if work.adapter_elems else 0
        layer_s = 2 * reduce_s + (2 + num_short) * self._device.collective_s
        return self._shape.num_layers * layer_s
