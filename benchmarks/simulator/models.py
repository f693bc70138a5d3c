"""The decoders that are simulated, and what their weights, KV and adapters weigh.

Owns: published shapes, and counts of elements.
Does not know: devices, nor time.
"""

from collections.abc import Iterable

from motet.core.shape import MODULES, ModelShape, Module

# What S-LoRA's adapters touch.
ATTENTION = (Module.Q, Module.K, Module.V, Module.O)


def _llama(
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_kv_heads: int | None = None,
) -> ModelShape:
    return ModelShape(
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads or num_heads,
        head_dim=128,
        vocab_size=32000,
    )


LLAMA_7B = _llama(32, 4096, 11008, 32)
LLAMA_13B = _llama(40, 5120, 13824, 40)
LLAMA_70B = _llama(80, 8192, 28672, 64, 8)
SMOLLM2_135M = ModelShape(
    num_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49152,
)


def module_elems(shape: ModelShape, modules: Iterable[Module]) -> int:
    """Elements of the weights of these projections, in all layers."""
    each = (shape.in_features(module) * shape.out_features(module) for module in modules)
    return shape.num_layers * sum(each)


def step_elems(shape: ModelShape) -> int:
    """Elements of the matrices that a step multiplies: all projections and the head."""
    return module_elems(shape, MODULES) + shape.hidden_size * shape.vocab_size


def kv_elems(shape: ModelShape) -> int:
    """Elements of one token's keys and values, in all layers."""
    return 2 * shape.num_layers * shape.kv_size


def adapter_elems(shape: ModelShape, rank: int, modules: Iterable[Module] = ATTENTION) -> int:
    """Elements of an adapter of one rank on these projections of all layers."""
    each = (shape.in_features(module) + shape.out_features(module) for module in modules)
    return shape.num_layers * rank * sum(each)
