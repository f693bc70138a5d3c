"""What storing a CPU's weights in fewer bits does to the model.

    python -m benchmarks.weights_accuracy

The default model reads this repository's documentation in float32, once for each storage of its
weights. The last line is one JSON object; for each storage:

- cross_entropy: mean of the next token's, in nats; the least is float32's, or nearly
- same_likeliest: share of positions whose likeliest token is float32's
- largest_probability_change: of any token at any position
- weight_mib: the matrices
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motet.kernels.cpu_backend import CpuKernels
from motet.kernels.host_memory import zeros_on_huge_pages
from motet.kernels.types import AttentionBatch
from motet.models.checkpoint import Checkpoint
from motet.models.config import load_config
from motet.models.context import ForwardContext
from motet.models.decoder import Decoder
from motet.models.default_model import default_model_dir
from motet.models.weights import read_weights

_DOCS = Path(__file__).parents[1] / "docs"
_STORAGES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_CPU = torch.device("cpu")
_PAGE_SIZE = 16


def measure(num_chunks: int, chunk_tokens: int) -> dict[str, Any]:
    """Figures by storage.

    Args:
        num_chunks: pieces of text, each read by itself.
        chunk_tokens: length of each [tokens].
    """
    chunks = torch.split(_text_tokens(), chunk_tokens)[:num_chunks]
    found: dict[str, Any] = {}
    reference: list[Tensor] = []
    for name, storage in _STORAGES.items():
        print(name, file=sys.stderr, flush=True)
        decoder, weight_mib = _model(storage)
        probabilities = [_log_probabilities(decoder, chunk) for chunk in chunks]
        reference = reference or probabilities
        found[name] = _compare(chunks, probabilities, reference) | {"weight_mib": weight_mib}
    return found


def _compare(
    chunks: tuple[Tensor, ...], found: list[Tensor], reference: list[Tensor]
) -> dict[str, float]:
    entropies, agreements, changes = [], [], []
    for tokens, ours, theirs in zip(chunks, found, reference, strict=True):
        entropies.append(-ours[:-1].gather(1, tokens[1:, None]).squeeze(1))
        agreements.append((ours.argmax(1) == theirs.argmax(1)).float())
        changes.append((ours.exp() - theirs.exp()).abs().max())
    return {
        "cross_entropy": round(float(torch.cat(entropies).mean()), 4),
        "same_likeliest": round(float(torch.cat(agreements).mean()), 4),
        "largest_probability_change": round(float(torch.stack(changes).max()), 4),
    }


def _text_tokens() -> Tensor:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(default_model_dir())
    text = "\n".join(path.read_text() for path in sorted(_DOCS.glob("*.md")))
    return torch.tensor(tokenizer(text).input_ids)


def _model(storage: torch.dtype) -> tuple[Decoder, float]:
    model_dir = default_model_dir()
    config = load_config(model_dir)
    with Checkpoint(model_dir) as checkpoint:
        weights = read_weights(config, checkpoint, _CPU, torch.float32, storage)
    matrices = [
        m for layer in weights.layers for m in (layer.qkv, layer.o, layer.gate_up, layer.down)
    ]
    num_bytes = sum(matrix.num_bytes for matrix in (*matrices, weights.embedding))
    return Decoder(config, weights), round(num_bytes / 2**20, 1)


@torch.inference_mode()
def _log_probabilities(decoder: Decoder, tokens: Tensor) -> Tensor:
    """float32 [num_tokens, vocab_size] of what follows each token of a text."""
    shape = decoder.config.shape
    num_pages = -(-len(tokens) // _PAGE_SIZE)
    page_elems = 2 * _PAGE_SIZE * shape.kv_size
    positions = torch.arange(len(tokens))
    context = ForwardContext(
        pool=zeros_on_huge_pages((shape.num_layers, num_pages, page_elems), torch.float32),
        kernels=CpuKernels(),
        attention=AttentionBatch(
            page_table=torch.arange(num_pages, dtype=torch.int32)[None],
            query_starts=torch.tensor([0, len(tokens)], dtype=torch.int32),
            context_lens=torch.tensor([len(tokens)], dtype=torch.int32),
            max_query_len=len(tokens),
            max_context_len=len(tokens),
            page_size=_PAGE_SIZE,
        ),
        positions=positions,
        kv_slots=positions,
        lora=None,
    )
    return decoder.forward(tokens, positions, context).log_softmax(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--chunk-tokens", type=int, default=256)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.chunks, arguments.chunk_tokens)))


if __name__ == "__main__":
    main()
