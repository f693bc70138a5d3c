"""Which methods of routing there are.

Owns: the table `METHODS`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One method of routing.

    Attributes:
        has_tensors: whether the router has gates of its own, in `router.safetensors`.
    """

    has_tensors: bool = True


METHODS = {
    "meteora": Method(),
    "lora_mixer": Method(),
    "mola": Method(),
    "mixlora": Method(),
    "arrow": Method(has_tensors=False),
    "smora": Method(),
    "mora": Method(has_tensors=False),
}
