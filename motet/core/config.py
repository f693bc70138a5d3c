"""Every option of the engine, typed, with its unit, its default and its help text.

Owns: `EngineConfig`, what the engine process is started with.
Does not know: the command line (`server/cli.py` builds one from it), nor this machine's sizes
(`engine/resolve.py` fills what is None).
"""

from typing import Literal

import msgspec


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the engine process. None means: decided from the model and the machine.

    Attributes:
        model: a Hugging Face directory, a hub id, or a `.gguf` file; None is the embedded default.
        model_name: the name that requests use; None is the last part of `model`.
        device: "cpu", "cuda", or "cuda:N" for GPU number N; None is a GPU where there is one.
        dtype: "float32", "bfloat16" or "float16"; None is float32 on a CPU, else the model's own.
        weights: what the weight matrices are stored in: "float32", "bfloat16" or "int8"; None is
            `dtype`. Another than `dtype` is for a CPU that computes in float32.
        pool_memory_bytes: size of the page pool; None is a share of what is free.
        host_adapter_bytes: budget for packed copies of adapters in host memory; None is a share of
            what is free.
        prefix_cache: keep the KV of computed tokens for requests that begin alike.
        cuda_graphs: on a GPU, replay decode steps from captured graphs.
        eviction_policy: "saving" (`memory/eviction.py`), or "lru" for comparison.
        policy: who is served first: a name of `scheduler/policies/choose.py`, or several with "+".
        ttft_slo_s: within how long a first token should come, for the policy "slo".
        num_cluster_adapters: adapters that a batch should have at most, for the policy "cluster".
        static_adapter_pages: pages that only adapters may take, the others being for KV alone;
            None is one pool for both. It is for measuring what one pool is worth.
        page_size: KV tokens in a page; None is the least power of two, from 16 up, whose page
            holds the longest rank row.
        max_model_len: longest sequence [tokens]; None is the model's own limit.
        max_step_tokens: tokens that one step computes at most (prefill chunks and decodes).
        max_running: sequences in a step at most.
        num_loader_threads: threads that bring adapters from disk to host and host to device.
        num_threads: CPU threads of the step; None is one per core that this process may use.
        eos_token_ids: tokens that end an answer, for grammars; none of them leaves it to the
            tokenizer's own.
    """

    model: str | None = None
    model_name: str | None = None
    device: str | None = None
    dtype: str | None = None
    weights: str | None = None
    pool_memory_bytes: int | None = None
    host_adapter_bytes: int | None = None
    prefix_cache: bool = True
    cuda_graphs: bool = True
    eviction_policy: Literal["saving", "lru"] = "saving"
    policy: str = "fcfs"
    ttft_slo_s: float = 6.0
    num_cluster_adapters: int = 8
    static_adapter_pages: int | None = None
    page_size: int | None = None
    max_model_len: int | None = None
    max_step_tokens: int = 512
    max_running: int = 256
    num_loader_threads: int = 2
    num_threads: int | None = None
    eos_token_ids: tuple[int, ...] = ()
