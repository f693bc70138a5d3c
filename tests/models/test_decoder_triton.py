"""The decoder on the Triton kernels, which meet nowhere else: whole steps against transformers."""

from pathlib import Path

import pytest
import torch

from motet.models.loader import load_decoder
from tests.models.paged import PagedRunner
from tests.models.test_decoder import assert_same_logits
from tests.models.tiny import random_tokens, reference_logits, save_tiny_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen3"])  # without and with norms of q and k
def test_chunks_and_decodes_mixed(name: str, tmp_path: Path) -> None:
    triton_backend = pytest.importorskip("motet.kernels.triton_backend")
    reference = save_tiny_model(name, tmp_path, seed=1)
    decoder = load_decoder(tmp_path, DEVICE, torch.float32)
    runner = PagedRunner(decoder, triton_backend.TritonKernels(), seed=2)
    generator = torch.Generator().manual_seed(3)
    long, short = (random_tokens(generator, num_tokens) for num_tokens in (20, 3))
    with DEVICE:  # where the runner puts its tensors
        prefill = runner.step([("long", long[:18])])
        mixed = runner.step([("long", long[18:19]), ("short", short[:2])])
        decode = runner.step([("short", short[2:]), ("long", long[19:])])
    actual = torch.cat((prefill, mixed[:1], decode[1:])).cpu()
    assert_same_logits(actual, reference_logits(reference, long))
    actual = torch.cat((mixed[1:], decode[:1])).cpu()
    assert_same_logits(actual, reference_logits(reference, short))
