"""The two plans: at the shape of Llama-3.1-8B, and tiny, which tries the program on a CPU.

Owns: their values, and the settings of S-LoRA's table.
"""

from collections.abc import Mapping

import torch

from benchmarks.gpu.plan import AdapterKind, CheckPlan, EnginePlan, KernelPlan, Plan, TracePlan

SETTINGS: Mapping[str, AdapterKind] = {
    "S1": AdapterKind(ranks=(8,)),
    "S2": AdapterKind(ranks=(64, 32, 16, 8)),
}

REAL = Plan(
    name="Llama-3.1-8B shape",
    model={
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,  # without Llama 3.1's scaling, which costs a step nothing
        "tie_word_embeddings": False,
    },
    dtype=torch.bfloat16,
    copy_bytes=2 << 30,
    check=CheckPlan(
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
        lora_ranks=(8, 16, 64, 128),
        num_decode_tokens=32,
        prefill_segments=(1, 7, 64, 200, 512, 1000, 16, 300),
        num_single_tokens=2048,
        routed=((64, 28, 8), (9, 28, 64), (600, 28, 64)),
        decode_contexts=(1, 17, 128, 1000, 4096, 8192, 20000),
        prefill_chunks=((128, 128), (512, 3000), (1, 700), (77, 4096)),
        sliding_window=1024,
        num_fused_tokens=(1, 33, 1024),
    ),
    kernels=KernelPlan(
        rank=16,
        lora_decodes=((32, 1), (32, 8), (32, 32), (128, 128), (1, 1), (8, 8)),
        mixed_ranks=(8, 16, 32, 64, 128),
        num_mixed=32,
        prefill=(8192, 8),
        routed_experts=(8, 28),
        routed_tokens=(16, 64, 4096),
        routed_rank=8,
        attention=((1, 128), (32, 128), (32, 1024), (32, 8192), (1, 8192), (128, 1024)),
        num_fused_tokens=(32, 8192),
        num_rounds=15,
    ),
    engine=EnginePlan(
        rank=16,
        base_batches=(1, 32),
        lora_decodes=((32, 1), (32, 8), (32, 32), (128, 128)),
        mixed_ranks=(8, 16, 32, 64, 128),
        num_mixed=32,
        num_prompt_tokens=128,
        num_warm_up_steps=5,
        num_steps=40,
        num_repeats=5,
        prefill=(8192, 8),
        pool_memory_bytes=None,
        compared_pool_bytes=12 << 30,
    ),
    trace=TracePlan(
        num_adapters=(5, 100, 1000, 2000),
        tokens=(8, 512),
        num_outstanding=384,
        warm_up_s=4.0,
        measured_s=8.0,
    ),
    budget_s=450.0,
)

TINY = Plan(
    name="tiny",
    model={
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
    dtype=torch.float16,
    copy_bytes=1 << 20,
    check=CheckPlan(
        dtypes=(torch.float16, torch.float32),
        lora_ranks=(3, 8, 20),
        num_decode_tokens=5,
        prefill_segments=(1, 17, 6),
        num_single_tokens=20,
        routed=((6, 3, 4), (3, 5, 4)),
        decode_contexts=(1, 17, 300),
        prefill_chunks=((5, 5), (9, 40), (1, 20)),
        sliding_window=12,
        num_fused_tokens=(1, 5),
    ),
    kernels=KernelPlan(
        rank=4,
        lora_decodes=((2, 1), (2, 2)),
        mixed_ranks=(2, 4),
        num_mixed=2,
        prefill=(16, 2),
        routed_experts=(3,),
        routed_tokens=(2,),
        routed_rank=4,
        attention=((2, 20),),
        num_fused_tokens=(3,),
        num_rounds=2,
    ),
    engine=EnginePlan(
        rank=4,
        base_batches=(1, 2),
        lora_decodes=((2, 1), (2, 2)),
        mixed_ranks=(2, 4),
        num_mixed=2,
        num_prompt_tokens=4,
        num_warm_up_steps=1,
        num_steps=2,
        num_repeats=1,
        prefill=(16, 2),
        pool_memory_bytes=1 << 20,
        compared_pool_bytes=1 << 20,
    ),
    trace=TracePlan(
        num_adapters=(2, 4),
        tokens=(2, 6),
        num_outstanding=3,
        warm_up_s=0.1,
        measured_s=0.4,
    ),
    budget_s=600.0,
)
