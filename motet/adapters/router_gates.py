"""The gates of a router: their names in `router.safetensors`, and their form.

Owns: where a router's gates lie in a model, and that each fits the base.
Does not know: experts, nor how scores become weights.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.adapters.peft_targets import MODULE_PATHS
from motet.adapters.roots import quote
from motet.adapters.router_config import ROUTER_WEIGHTS_NAME
from motet.adapters.widening import is_finite, to_float32
from motet.core.errors import AdapterError
from motet.core.pacing import Pace
from motet.core.routing import RoutingRule
from motet.core.shape import ModelShape, Module

GateKey = tuple[int, Module]

_MODULES = {path: module for module, path in MODULE_PATHS.items()}
# A choice for a whole MLP block is made on its input, which its first projections read.
_BLOCK = {"mlp": Module.GATE}
_KEY = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.([a-z_.]+)\.gate\.(weight|bias)")


@dataclass(frozen=True, slots=True, eq=False)
class StoredGates:
    """The gates of one layer and module as the file stores them.

    Attributes:
        weight: [num_gates, in_features].
        bias: [num_gates], or None.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def rows(self) -> Tensor:
        """float32 [rows, in_features]: the gates, and a row that begins with the biases if any."""
        weight = to_float32(self.weight)
        if self.bias is None:
            return weight
        row = torch.zeros(1, weight.shape[1])
        row[0, : len(self.bias)] = to_float32(self.bias)
        return torch.cat((weight, row))


def gate_path(layer: int, module: Module, *, per_block: bool) -> str:
    """The name in `router.safetensors` of a layer's gates, up to `.weight` or `.bias`."""
    place = "mlp" if per_block else MODULE_PATHS[module]
    return f"layers.{layer}.{place}.gate"


def stored_gates(
    tensors: Mapping[str, Tensor], rule: RoutingRule, shape: ModelShape, *, pace: Pace
) -> dict[GateKey, StoredGates]:
    """The tensors of `router.safetensors` as gates, each checked on its own.

    Args:
        tensors: by name.
        rule: says where gates lie, and whether they have biases.
        shape: the base model.
        pace: called between pieces of work.

    Returns:
        By (layer, module), in that order.

    Raises:
        AdapterError: a tensor is not known, does not fit the base, is missing, or is not finite.
    """
    named: dict[GateKey, dict[str, Tensor]] = {}
    places = _BLOCK if rule.per_block else _MODULES
    for name in sorted(tensors):
        match = _KEY.fullmatch(name)
        if match is None or match[2] not in places:
            example = gate_path(0, Module.Q, per_block=rule.per_block)
            raise AdapterError(
                f"The tensor {quote(name)} of {ROUTER_WEIGHTS_NAME} is not known here. Expected "
                f"names like {example}.weight, with {' or '.join(places)}.",
                code="unsupported_adapter",
            )
        layer = int(match[1])
        if layer >= shape.num_layers:
            raise AdapterError(
                f"The tensor {quote(name)} is for layer {layer}, but the base model has "
                f"{shape.num_layers} layers (0 to {shape.num_layers - 1}).",
                code="wrong_base_model",
            )
        named.setdefault((layer, places[match[2]]), {})[match[3]] = tensors[name]
    gates = {}
    for key, parts in sorted(named.items()):
        path = gate_path(*key, per_block=rule.per_block)
        weight, bias = parts.get("weight"), parts.get("bias")
        if weight is None or (bias is not None) != rule.has_bias:
            kinds = "a weight and a bias" if rule.has_bias else "a weight alone"
            raise AdapterError(f"The gates {quote(path)} have {' and '.join(parts)}, not {kinds}.")
        _check_tensors(path, weight, bias, shape.in_features(key[1]))
        gates[key] = StoredGates(weight, bias)
        pace()
    return gates


def _check_tensors(path: str, weight: Tensor, bias: Tensor | None, in_features: int) -> None:
    """The weight is [num_gates, in_features], the bias [num_gates], and all is finite."""
    if weight.ndim != 2 or weight.shape[1] != in_features or weight.shape[0] == 0:
        raise AdapterError(
            f"The tensor {quote(f'{path}.weight')} has shape {list(weight.shape)}; expected "
            f"[number of gates, {in_features}]. The router was probably made for another base "
            "model.",
            code="wrong_base_model",
        )
    if bias is not None and (bias.ndim != 1 or len(bias) != len(weight)):
        raise AdapterError(
            f"The tensor {quote(f'{path}.bias')} has shape {list(bias.shape)}; expected "
            f"{[len(weight)]}."
        )
    if bias is not None and len(bias) > in_features:
        raise AdapterError(
            f"The gates {quote(path)} have {len(bias)} biases; at most {in_features}, the length "
            "of a gate, are supported.",
            code="unsupported_adapter",
        )
    for tensor in (weight, bias):
        if tensor is not None and not is_finite(tensor):
            raise AdapterError(f"The gates {quote(path)} hold NaN or infinity.")
