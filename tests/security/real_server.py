"""A real server, engine and all, over a tiny random model: `motet serve` as a user starts it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from motet.core.shape import ModelShape
from tests.end_to_end.serving import Server, serve
from tests.server.some_keys import bearer
from tests.server.tiny_model import write_tiny_model

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=259,  # that of the tokenizer
)
API, ADMIN, ALICE, BOB = "the-api-key", "the-admin-key", "the-key-of-alice", "the-key-of-bob"


@dataclass(frozen=True)
class RealServer:
    """A running server, and a client without a key."""

    serving: Server
    root: Path
    http: httpx2.Client

    @property
    def log(self) -> str:
        return self.serving.log.read_text()

    def load(self, name: str, path: object, **fields: object) -> httpx2.Response:
        body = {"lora_name": name, "lora_path": str(path), **fields}
        return self.http.post("/v1/load_lora_adapter", json=body, headers=bearer(ADMIN))

    def complete(self, key: str, **params: object) -> httpx2.Response:
        body = {"model": "tiny", "prompt": "abc", "max_tokens": 2, "temperature": 0, **params}
        return self.http.post("/v1/completions", json=body, headers=bearer(key))


def write_model(directory: Path) -> Path:
    """A random model, and the tokenizer of bytes."""
    write_tiny_model(directory)
    config = LlamaConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.intermediate_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_kv_heads,
        max_position_embeddings=512,
        eos_token_id=257,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@contextlib.contextmanager
def real_server(directory: Path, keys_file: Path, *arguments: str) -> Iterator[RealServer]:
    """Serve until the block ends; adapters may come from `directory/adapters`."""
    model, root = write_model(directory / "model"), directory / "adapters"
    root.mkdir()
    options = ["--served-model-name", "tiny", "--adapter-root", str(root)]
    options += ["--keys-file", str(keys_file), "--pool-memory", "16MiB", "--threads", "1"]
    env = {"MOTET_API_KEY": API, "MOTET_ADMIN_KEY": ADMIN}
    log = directory / "server.log"
    with (
        serve(log, str(model), *options, *arguments, env=env) as serving,
        httpx2.Client(base_url=serving.url, timeout=60) as http,
    ):
        yield RealServer(serving, root, http)
