"""What devices can do: the constants of the cost model.

Owns: the presets, and where each of their figures comes from.
Does not know: models and batches (`cost_model.py`).

A GPU's rates are those of its data sheet, times a share of them that a server comes to. That share
is the only constant that was fitted: to the throughput that S-LoRA published for one adapter under
overload on that GPU (`fitting.py`). So it stands for all that its kernels and its Python lose, and
simulated loads are as heavy as the published ones were. A GPU without a published figure has the
share of its nearest relative.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Device:
    """One machine. Rates are those that a server comes to, of one GPU where there are several.

    Attributes:
        num_gpus: they share each layer (tensor parallel).
        weights_bytes_per_s, kv_bytes_per_s, adapter_bytes_per_s: how fast a step reads each.
        flops_per_s: of matrix products.
        step_s: what a step takes whatever is in it.
        sequence_s: what each of its sequences adds to that.
        lora_layer_s: what launches in a layer add when anyone in the batch uses an adapter.
        collective_s: the least that one collective among the GPUs takes.
        link_bytes_per_s: between two GPUs.
        copy_s, copy_bytes_per_s: from host memory to the device: the least, and the rate.
        read_s, read_bytes_per_s: from disk to host memory, by one thread: likewise.
    """

    name: str
    num_gpus: int = 1
    weights_bytes_per_s: float
    kv_bytes_per_s: float
    adapter_bytes_per_s: float
    flops_per_s: float
    step_s: float
    sequence_s: float = 0.0
    lora_layer_s: float
    collective_s: float = 0.0
    link_bytes_per_s: float = 1.0
    copy_s: float = 1e-4
    copy_bytes_per_s: float
    read_s: float = 2e-3
    read_bytes_per_s: float = 1.5e9


# An eager server's Python and launches between two steps, beside the GPU's own time.
_STEP_S = 3e-3
# S-LoRA launches 8 LoRA kernels in each layer; about what a launch takes.
_LORA_LAYER_S = 8 * 8e-6
_PCIE4_BYTES_PER_S = 25e9  # of 32
_PCIE5_BYTES_PER_S = 50e9  # of 64


def _gpu(
    name: str, *, bytes_per_s: float, flops_per_s: float, share: float, copy_bytes_per_s: float
) -> Device:
    """A GPU by its data sheet, and the share of both rates that a server comes to."""
    return Device(
        name=name,
        weights_bytes_per_s=share * bytes_per_s,
        kv_bytes_per_s=share * bytes_per_s,
        adapter_bytes_per_s=share * bytes_per_s,
        flops_per_s=share * flops_per_s,
        step_s=_STEP_S,
        lora_layer_s=_LORA_LAYER_S,
        copy_bytes_per_s=copy_bytes_per_s,
    )


def a10g(share: float = 0.756) -> Device:
    """24 GB, as in AWS g5."""
    return _gpu(
        "A10G",
        bytes_per_s=600e9,
        flops_per_s=70e12,
        share=share,
        copy_bytes_per_s=_PCIE4_BYTES_PER_S,
    )


def a100_40(share: float = 0.432) -> Device:
    """A100 SXM, 40 GB."""
    return _gpu(
        "A100-40",
        bytes_per_s=1555e9,
        flops_per_s=312e12,
        share=share,
        copy_bytes_per_s=_PCIE4_BYTES_PER_S,
    )


def a100_80(share: float = 0.420) -> Device:
    """A100 SXM, 80 GB."""
    return _gpu(
        "A100-80",
        bytes_per_s=2039e9,
        flops_per_s=312e12,
        share=share,
        copy_bytes_per_s=_PCIE4_BYTES_PER_S,
    )


def h100(share: float = 0.420) -> Device:
    """H100 SXM, 80 GB."""
    return _gpu(
        "H100",
        bytes_per_s=3350e9,
        flops_per_s=989e12,
        share=share,
        copy_bytes_per_s=_PCIE5_BYTES_PER_S,
    )


def tensor_parallel(device: Device, num_gpus: int) -> Device:
    """Several A100 over NVLink; an adapter's shards are copied over all their PCIe lanes."""
    return replace(
        device,
        name=f"{num_gpus}x{device.name}",
        num_gpus=num_gpus,
        collective_s=15e-6,
        link_bytes_per_s=300e9,
        copy_bytes_per_s=num_gpus * device.copy_bytes_per_s,
    )


def cpu() -> Device:
    """Two cores, in float32, as `--calibrate` found them with the default model."""
    return Device(
        name="CPU, 2 cores",
        weights_bytes_per_s=42.2e9,
        kv_bytes_per_s=23.0e9,
        adapter_bytes_per_s=27.6e9,
        flops_per_s=324e9,
        step_s=5.32e-3,
        sequence_s=0.863e-3,
        lora_layer_s=0.0,
        copy_s=1e-3,
        copy_bytes_per_s=2e9,
        read_s=2e-3,
        read_bytes_per_s=5e8,
    )
