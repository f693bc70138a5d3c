"""Recognising checkpoints of routers that others defined, by their `adapter_config.json`.

Owns: which of them `motet import-router` converts, and why the others are refused.
Does not know: how they are converted (`adapters/importing/`).
"""

from collections.abc import Mapping

from motet.core.errors import AdapterError

_CONVERTIBLE = {"MIXLORA": "mixlora", "MOLA": "mola"}

_REFUSED = {
    "XLORA": "X-LoRA computes its weights from the hidden states of a first forward pass without "
    "adapters, so each token takes two. One pass is made here. Train a router over the same "
    "adapters with `motet train-router`, or name one of them in each request.",
    "LORAMOE": "LoRAMoE's layout is not read. Its routing is that of method mola with top_k equal "
    "to the number of experts.",
}


def refuse_unconverted(config: Mapping[str, object]) -> None:
    """Refuse what is no LoRA adapter but a router, and say what can be done with it.

    Args:
        config: `adapter_config.json`, as parsed.

    Raises:
        AdapterError: "unsupported_adapter".
    """
    kind = config.get("peft_type")
    refuse_unsupported(config)
    if isinstance(kind, str) and kind in _CONVERTIBLE:
        raise _needs_conversion(f"peft_type is {kind}", _CONVERTIBLE[kind])
    if kind == "LORA" and isinstance(config.get("r"), list):
        raise _needs_conversion("r is a list, one rank for each layer, as MoLA has it", "mola")


def refuse_unsupported(config: Mapping[str, object]) -> None:
    """Refuse what cannot be converted either. Raises AdapterError, "unsupported_adapter"."""
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind in _REFUSED:
        raise AdapterError(f"peft_type is {kind}. {_REFUSED[kind]}", code="unsupported_adapter")


def _needs_conversion(what: str, layout: str) -> AdapterError:
    return AdapterError(
        f"{what}: experts and their router, not one adapter. Convert it with `motet import-router "
        f"{layout} DIRECTORY --out NEW_DIRECTORY`, and load what that writes.",
        code="unsupported_adapter",
    )
