"""Fills what the configuration left open, from the model and from this machine.

Owns: the defaults that depend on free memory, cores and devices.
Does not know: the command line.
"""

import os
import re
from pathlib import Path

import psutil
import torch

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError
from motet.core.shape import ModelShape
from motet.memory.device_pool import num_pages_in
from motet.memory.geometry import PageGeometry, smallest_page_size

# Shares of what is free once the weights are loaded. A CPU's memory is shared with everything
# else on the machine, a GPU's with nothing.
CPU_POOL_SHARE = 0.25
GPU_POOL_SHARE = 0.85
# Tensors of the size of the logits [max_running, vocab_size] that a GPU holds at once: those of
# captured graphs, the step's own, their copy for log probabilities, and what sampling sorts.
GPU_LOGITS = 9
# Share of the host's memory that is free beside the pool, for adapters' copies.
HOST_ADAPTER_SHARE = 0.25

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USAGE = Path("/sys/fs/cgroup/memory.current")


def resolve_device(config: EngineConfig) -> torch.device:
    """The device to run on: as configured, else a GPU where there is one.

    Raises:
        ConfigError: it is not known, or a GPU that is not there.
    """
    if config.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", config.device):
        raise ConfigError(
            f"device {config.device!r} is not known; give cpu, cuda, or cuda:N for GPU number N",
            param="device",
        )
    if config.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {config.device!r} was asked for, but torch {torch.__version__} finds no "
            "GPU; use --device cpu, or install a CUDA build of torch",
            param="device",
        )
    device = torch.device(config.device)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(
            f"device {config.device!r} was asked for, but torch finds "
            f"{torch.cuda.device_count()} GPUs, numbered from 0",
            param="device",
        )
    return device


def resolve_num_threads(config: EngineConfig) -> int:
    """Threads of the step: as configured, else the cores that this process may use."""
    return config.num_threads or len(os.sched_getaffinity(0))


def resolve_geometry(config: EngineConfig, shape: ModelShape) -> PageGeometry:
    """Page sizes for this model.

    Raises:
        ConfigError: the configured page is too small for the longest rank row.
    """
    return PageGeometry(shape, config.page_size or smallest_page_size(shape))


def resolve_max_model_len(config: EngineConfig, model_limit: int) -> int:
    """The longest sequence: as configured, at most what the model was made for."""
    if config.max_model_len is None:
        return model_limit
    if config.max_model_len > model_limit:
        raise ConfigError(
            f"max_model_len is {config.max_model_len}, but the model takes {model_limit} tokens",
            param="max_model_len",
        )
    return config.max_model_len


def resolve_num_pages(
    config: EngineConfig, geometry: PageGeometry, dtype: torch.dtype, device: torch.device
) -> int:
    """Pages of the pool, from its memory budget.

    Raises:
        ConfigError: not even a few pages fit.
    """
    budget_bytes = config.pool_memory_bytes or default_pool_bytes(
        device, GPU_LOGITS * 4 * config.max_running * geometry.shape.vocab_size
    )
    num_pages = num_pages_in(geometry, budget_bytes, dtype)
    if num_pages < 2:
        raise ConfigError(
            f"a pool of {budget_bytes} bytes holds {num_pages} pages of "
            f"{geometry.page_bytes(dtype.itemsize)} bytes; give --pool-memory at least "
            f"{64 * geometry.page_bytes(dtype.itemsize)}",
            param="pool_memory",
        )
    return num_pages


def resolve_host_budget_pages(config: EngineConfig, page_bytes: int, pool_bytes: int) -> int:
    """Pages of adapters' copies in host memory, from its budget.

    Args:
        config: the options.
        page_bytes: bytes of one page.
        pool_bytes: bytes of host memory that the pool is yet to take; 0 if it lies on a GPU.

    Raises:
        ConfigError: not even one page fits.
    """
    budget_bytes = config.host_adapter_bytes
    if budget_bytes is None:
        budget_bytes = int((_free_host_bytes() - pool_bytes) * HOST_ADAPTER_SHARE)
    if budget_bytes < page_bytes:
        raise ConfigError(
            f"{budget_bytes} bytes of host memory for adapters hold none: a page has {page_bytes} "
            f"bytes; give --host-adapter-memory at least {64 * page_bytes}",
            param="host_adapter_memory",
        )
    return budget_bytes // page_bytes


def resolve_adapter_pages(config: EngineConfig, num_pages: int) -> int | None:
    """Pages of a static partition; None is one pool.

    Raises:
        ConfigError: one of the two parts would have no page.
    """
    if config.static_adapter_pages is None:
        return None
    if not 0 < config.static_adapter_pages < num_pages:
        raise ConfigError(
            f"static_adapter_pages is {config.static_adapter_pages}; give 1 to {num_pages - 1}, "
            f"as the pool has {num_pages} pages",
            param="static_adapter_pages",
        )
    return config.static_adapter_pages


def default_pool_bytes(device: torch.device, step_bytes: int) -> int:
    """A share of the memory that is free on the device now.

    Args:
        device: where the pool will lie.
        step_bytes: what the largest tensors of a step take beside it, on a GPU.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return max(0, int((free_bytes - step_bytes) * GPU_POOL_SHARE))
    return int(_free_host_bytes() * CPU_POOL_SHARE)


def _free_host_bytes() -> int:
    available_bytes: int = psutil.virtual_memory().available
    return min(available_bytes, _cgroup_free_bytes())


def _cgroup_free_bytes() -> int:
    """What a container's limit leaves free; without a limit, all of the machine's memory."""
    total_bytes: int = psutil.virtual_memory().total
    if not _CGROUP_LIMIT.exists():
        return total_bytes
    limit = _CGROUP_LIMIT.read_text().strip()
    if limit == "max":
        return total_bytes
    return max(0, int(limit) - int(_CGROUP_USAGE.read_text()))
