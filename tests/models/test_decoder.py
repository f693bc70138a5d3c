"""The decoder's logits against transformers', over pages, in every way a batch can be made."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from motet.kernels.cpu_backend import CpuKernels
from motet.kernels.reference_backend import ReferenceKernels
from motet.kernels.types import Kernels
from motet.models.config import parse_config
from motet.models.default_model import default_model_dir
from motet.models.loader import load_decoder
from motet.models.rope import rotary_table
from tests.models.paged import Chunk, PagedRunner
from tests.models.tiny import (
    MAX_LEN,
    TINY_MODELS,
    random_tokens,
    reference_logits,
    save_tiny_model,
)

CPU = torch.device("cpu")
KERNELS: list[Kernels] = [ReferenceKernels(), CpuKernels()]

over_kernels = pytest.mark.parametrize("kernels", KERNELS, ids=["reference", "cpu"])
over_models = pytest.mark.parametrize("name", TINY_MODELS)


def assert_same_logits(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Equal up to `tolerance` times the largest logit."""
    assert actual.shape == expected.shape
    assert actual.dtype == torch.float32
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"logits differ by {error:.2e} of their scale"


@over_kernels
@over_models
def test_whole_prompt(name: str, kernels: Kernels, tmp_path: Path) -> None:
    reference = save_tiny_model(name, tmp_path, seed=1)
    runner = PagedRunner(load_decoder(tmp_path, CPU, torch.float32), kernels, seed=2)
    prompt = random_tokens(torch.Generator().manual_seed(3), MAX_LEN)
    assert_same_logits(runner.step([("a", prompt)]), reference_logits(reference, prompt))


@over_kernels
@over_models
def test_chunks_and_decodes_mixed(name: str, kernels: Kernels, tmp_path: Path) -> None:
    """Three sequences, cut at random places, each token computed beside others' chunks."""
    reference = save_tiny_model(name, tmp_path, seed=4)
    runner = PagedRunner(load_decoder(tmp_path, CPU, torch.float32), kernels, seed=5)
    generator = torch.Generator().manual_seed(6)
    left = {n: random_tokens(generator, length) for n, length in [("a", 33), ("b", 18), ("c", 7)]}
    expected = {n: reference_logits(reference, tokens) for n, tokens in left.items()}
    actual: dict[str, list[Tensor]] = {n: [] for n in left}
    while any(left.values()):
        chunks: list[Chunk] = []
        for n, tokens in left.items():
            size = int(torch.randint(6, (1,), generator=generator))  # 0: sits this step out
            if tokens[:size]:
                chunks.append((n, tokens[:size]))
                left[n] = tokens[size:]
        if chunks:
            logits = runner.step(chunks).split([len(tokens) for _, tokens in chunks])
            for (n, _), rows in zip(chunks, logits, strict=True):
                actual[n].append(rows)
    for n in left:
        assert_same_logits(torch.cat(actual[n]), expected[n])


def test_only_the_asked_for_rows(tmp_path: Path) -> None:
    reference = save_tiny_model("llama", tmp_path)
    decoder = load_decoder(tmp_path, CPU, torch.float32)
    prompt = random_tokens(torch.Generator().manual_seed(7), 9)
    expected = reference_logits(reference, prompt)
    for rows in ([8], [3, 0, 8], []):
        runner = PagedRunner(decoder, ReferenceKernels(), seed=8)
        actual = runner.step([("a", prompt)], logits_rows=rows)
        assert actual.shape == (len(rows), expected.shape[1])
        if rows:
            assert_same_logits(actual, expected[rows])


@over_models
def test_bfloat16(name: str, tmp_path: Path) -> None:
    reference = save_tiny_model(name, tmp_path, seed=9)
    decoder = load_decoder(tmp_path, CPU, torch.bfloat16)
    assert decoder.dtype == torch.bfloat16
    runner = PagedRunner(decoder, ReferenceKernels(), seed=10)
    prompt = random_tokens(torch.Generator().manual_seed(11), 21)
    expected = reference_logits(reference.to(torch.bfloat16), prompt)
    assert_same_logits(runner.step([("a", prompt)]), expected, tolerance=0.05)


ROPES = {
    "default": {},
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 2.5},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 24.0},
}


@pytest.mark.parametrize("rope_type", ROPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_is_exactly_that_of_transformers(rope_type: str, dtype: torch.dtype) -> None:
    hf_config = LlamaConfig(
        num_attention_heads=8,
        num_key_value_heads=4,
        hidden_size=768,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": rope_type, "rope_theta": 5e5, **ROPES[rope_type]},
        architectures=["LlamaForCausalLM"],
    )
    positions = torch.arange(2048)
    cos, sin = LlamaRotaryEmbedding(hf_config)(torch.empty(0, dtype=dtype), positions[None])
    table = rotary_table(parse_config(hf_config), CPU, dtype)
    assert torch.equal(table[:, 0].repeat(1, 2), cos[0])
    assert torch.equal(table[:, 1].repeat(1, 2), sin[0])


@pytest.mark.slow
def test_default_model(tmp_path: Path) -> None:
    model_dir = default_model_dir()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    reference = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    prompt = tokenizer("A motet is a piece of music in which many voices sing " * 6).input_ids
    expected = reference_logits(reference, prompt)
    decoder = load_decoder(model_dir, CPU, torch.float32)
    runner = PagedRunner(decoder, CpuKernels(), seed=13, page_size=16, num_pages=24)
    chunks = [prompt[:32], prompt[32:70], prompt[70:-1], prompt[-1:]]
    actual = torch.cat([runner.step([("a", chunk)]) for chunk in chunks])
    assert_same_logits(actual, expected, tolerance=1e-4)
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))
