"""Wires an engine from a configuration: model, pool, scheduler, loader.

Owns: the order in which the parts are made.
Does not know: the process around it (`process.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from motet.core.config import EngineConfig
from motet.core.messages import EngineReady, FromEngine
from motet.engine.adapters import EngineAdapters
from motet.engine.cuda_graphs import CudaCapture
from motet.engine.decode_graphs import DecodeGraphs
from motet.engine.engine import Engine, Runner
from motet.engine.grammar import load_tokenizer
from motet.engine.grammar_compiler import GrammarCompiler
from motet.engine.loader import AdapterLoader
from motet.engine.resolve import (
    resolve_adapter_pages,
    resolve_device,
    resolve_geometry,
    resolve_host_budget_pages,
    resolve_max_model_len,
    resolve_num_pages,
    resolve_num_threads,
)
from motet.engine.runner import ModelRunner
from motet.engine.store import AdapterStore
from motet.kernels.types import Kernels, load_kernels
from motet.memory.device_pool import DevicePool, row_capacity
from motet.memory.eviction import LruPolicy, PageCosts, SavingPolicy
from motet.memory.unified import UnifiedMemory, unified_memory
from motet.models.decoder import Decoder
from motet.models.loader import load_decoder, resolve_dtype, resolve_model_dir, resolve_storage
from motet.scheduler.policies.configured import configured_policy
from motet.scheduler.policy import PolicyFactory
from motet.scheduler.scheduler import Scheduler


@dataclass(frozen=True)
class EngineParts:
    """An engine, and the parts that others than itself may look at.

    Attributes:
        max_model_len: longest sequence [tokens].
    """

    engine: Engine
    scheduler: Scheduler
    memory: UnifiedMemory
    device_pool: DevicePool
    store: AdapterStore
    max_model_len: int


@dataclass(frozen=True)
class Variant:
    """What comparisons put in place of the engine's own parts.

    Attributes:
        make_policy: makes the policy of each priority.
        make_runner: computes batches, given the decoder, the plain runner, pool and bookkeeping.
    """

    make_policy: PolicyFactory
    make_runner: Callable[[Decoder, ModelRunner, DevicePool, UnifiedMemory], Runner]


def build_engine(
    config: EngineConfig,
    wake: Callable[[], None],
    send: Callable[[FromEngine], None],
    variant: Variant | None = None,
) -> tuple[Engine, EngineReady]:
    """Load the model, size the pool and wire the engine.

    Args:
        config: the options; what is None is filled here.
        wake: called from a loader thread when the engine should step.
        send: takes the engine's messages.
        variant: for comparisons; None is the engine itself.

    Raises:
        ConfigError: options that contradict the model or the machine.
        ModelError: the model cannot be loaded.
    """
    device = resolve_device(config)
    _make_current(device)
    _limit_threads(resolve_num_threads(config), device)
    model_dir = resolve_model_dir(config.model)
    dtype = resolve_dtype(config.dtype, device, model_dir)
    decoder = load_decoder(model_dir, device, dtype, resolve_storage(config.weights, device, dtype))
    tokenizer_file = model_dir / "tokenizer.json"
    kernels = load_kernels(device)
    parts = assemble_engine(config, decoder, kernels, wake, send, tokenizer_file, variant)
    ready = EngineReady(
        model_name=config.model_name or model_dir.name,
        shape=decoder.config.shape,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        max_model_len=parts.max_model_len,
        page_size=parts.memory.geometry.page_size,
        page_bytes=parts.memory.page_bytes,
        num_pages=parts.memory.pool.num_pages,
    )
    return parts.engine, ready


def assemble_engine(
    config: EngineConfig,
    decoder: Decoder,
    kernels: Kernels,
    wake: Callable[[], None],
    send: Callable[[FromEngine], None],
    tokenizer_file: Path | None = None,
    variant: Variant | None = None,
) -> EngineParts:
    """Size the pool beside a decoder, and wire the engine around it.

    Args:
        config: the options; what is None is filled here. Those that choose the model, its dtype,
            its device and the number of threads have been followed before.
        decoder: the model, on its device.
        kernels: the device's kernels.
        wake, send: as for `build_engine`.
        tokenizer_file: the model's `tokenizer.json`, read when a request first has a grammar;
            without it, those requests are refused.
        variant: as for `build_engine`.

    Raises:
        ConfigError: options that contradict the model or the machine.
    """
    device, dtype = decoder.device, decoder.dtype
    geometry = resolve_geometry(config, decoder.config.shape)
    max_model_len = resolve_max_model_len(config, decoder.config.max_position_embeddings)
    num_pages = resolve_num_pages(config, geometry, dtype, device)
    page_bytes = geometry.page_bytes(dtype.itemsize)
    pool_bytes = num_pages * page_bytes if device.type == "cpu" else 0
    host_budget_pages = resolve_host_budget_pages(config, page_bytes, pool_bytes)
    device_pool = DevicePool(geometry, num_pages, dtype, device)
    costs = PageCosts()
    memory = unified_memory(
        geometry,
        LruPolicy() if config.eviction_policy == "lru" else SavingPolicy(costs),
        page_bytes=page_bytes,
        num_pages=num_pages,
        row_capacity=row_capacity(geometry, num_pages),
        host_budget_pages=host_budget_pages,
        num_adapter_pages=resolve_adapter_pages(config, num_pages),
    )
    store = AdapterStore()
    scheduler = Scheduler(
        memory,
        max_step_tokens=config.max_step_tokens,
        max_running=config.max_running,
        keeps_prefixes=config.prefix_cache,
        make_policy=configured_policy(config) if variant is None else variant.make_policy,
    )
    graphs = _decode_graphs(config, decoder, device_pool, kernels, max_model_len)
    plain_runner = ModelRunner(decoder, device_pool, kernels, scheduler.pages.table, graphs)
    plain_runner.warm_up()
    runner: Runner = plain_runner
    if variant is not None:
        runner = variant.make_runner(decoder, plain_runner, device_pool, memory)
    vocab_size = decoder.config.shape.vocab_size
    grammars = GrammarCompiler(
        lambda: load_tokenizer(tokenizer_file, vocab_size, config.eos_token_ids), wake
    )
    engine = Engine(
        scheduler=scheduler,
        runner=runner,
        adapters=EngineAdapters(
            store=store,
            loader=AdapterLoader(device_pool, config.num_loader_threads, host_budget_pages, wake),
            scheduler=scheduler,
            memory=memory,
            costs=costs,
            send=send,
        ),
        grammars=grammars,
        memory=memory,
        costs=costs,
        max_model_len=max_model_len,
        send=send,
    )
    return EngineParts(
        engine=engine,
        scheduler=scheduler,
        memory=memory,
        device_pool=device_pool,
        store=store,
        max_model_len=max_model_len,
    )


def _decode_graphs(
    config: EngineConfig,
    decoder: Decoder,
    pool: DevicePool,
    kernels: Kernels,
    max_model_len: int,
) -> DecodeGraphs | None:
    """On a GPU, what replays decode steps, unless that is turned off."""
    if decoder.device.type != "cuda" or not config.cuda_graphs:
        return None
    return DecodeGraphs(
        decoder,
        pool,
        kernels,
        CudaCapture(),
        max_running=config.max_running,
        max_model_len=max_model_len,
    )


def _make_current(device: torch.device) -> None:
    """Triton launches on the current GPU, and streams are made on it, whichever has the tensors."""
    if device.index is not None:
        torch.cuda.set_device(device)


def _limit_threads(num_threads: int, device: torch.device) -> None:
    torch.set_num_threads(num_threads)
    if device.type == "cpu":
        import numba  # a GPU's kernels do without it

        numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))
