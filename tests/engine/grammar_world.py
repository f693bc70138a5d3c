"""A tiny random model that speaks bytes, for tests of grammars: nothing it says makes sense.

Owns: the model's directory, adapters for it, and an engine in this process over it.
Does not know: what a test is about.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from motet.core.config import EngineConfig
from motet.core.messages import (
    AdapterLoaded,
    AddRequest,
    EngineStats,
    FromEngine,
    GetStats,
    LoadAdapter,
    RequestFailed,
    StepOutput,
)
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape
from motet.engine.build import build_engine
from tests.adapters.make import AdapterSpec, write_lora
from tests.server.tiny_model import EOS, write_tiny_model

# Wider than the 259 tokens of the tokenizer, as real models are.
VOCAB_SIZE = 272
SHAPE = ModelShape(
    num_layers=2,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=VOCAB_SIZE,
)


@dataclass
class Answer:
    """What came of one request."""

    token_ids: list[int] = field(default_factory=list)
    end: str | None = None  # its finish reason, or the code of its error
    message: str | None = None


def write_model(directory: Path) -> Path:
    torch.manual_seed(3)
    write_tiny_model(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=SHAPE.hidden_size,
            intermediate_size=SHAPE.intermediate_size,
            num_hidden_layers=SHAPE.num_layers,
            num_attention_heads=SHAPE.num_heads,
            num_key_value_heads=SHAPE.num_kv_heads,
            max_position_embeddings=1024,
            eos_token_id=tokenizer.token_to_id(EOS),
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(directory)
    return directory


def write_adapter(directory: Path, seed: int) -> Path:
    return write_lora(directory, SHAPE, AdapterSpec(rank=4, seed=seed, scale=0.3))


def json_grammar(schema: object) -> str:
    """As the server makes it: on one line, so that no answer is endless whitespace."""
    grammar: str = LLMatcher.grammar_from_json_schema(
        json.dumps(schema),
        overrides={"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"},
    )
    return grammar


class World:
    """An engine over the tiny model, stepped by the test."""

    def __init__(self, model_dir: Path, **options: Any) -> None:
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.eos = self.tokenizer.token_to_id(EOS)
        self.sent: list[FromEngine] = []
        self._woken = threading.Event()
        config = EngineConfig(
            model=str(model_dir),
            device="cpu",
            eos_token_ids=(self.eos,),
            **{"pool_memory_bytes": 1 << 26, **options},
        )
        self.engine, self.ready = build_engine(config, self._woken.set, self.sent.append)

    def load(self, directory: Path) -> str:
        num_seen = len(self.sent)
        self.engine.handle(LoadAdapter(directory.name, str(directory)))
        while len(self.sent) == num_seen:
            self._step()
        loaded = self.sent[-1]
        assert isinstance(loaded, AdapterLoaded)
        return loaded.info.digest

    def request(
        self,
        name: str,
        grammar: str | None = None,
        *,
        prompt: str = "abc",
        digest: str | None = None,
        max_tokens: int = 200,
        temperature: float = 0.0,
        **params: Any,
    ) -> AddRequest:
        params.setdefault("stop_token_ids", (self.eos,))
        sampling = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, grammar=grammar, **params
        )
        return AddRequest(name, self.tokenizer.encode(prompt).ids, sampling, digest)

    def generate(self, *requests: AddRequest) -> dict[str, Answer]:
        """Run requests together to their ends."""
        answers = {request.request_id: Answer() for request in requests}
        num_seen = len(self.sent)
        for request in requests:
            self.engine.handle(request)
        deadline = time.monotonic() + 60
        while any(answer.end is None for answer in answers.values()):
            assert time.monotonic() < deadline, answers
            self._step()
            new, num_seen = self.sent[num_seen:], len(self.sent)
            for message in new:
                _note(message, answers)
        return answers

    def text(self, answer: Answer) -> str:
        text: str = self.tokenizer.decode(self._spoken(answer.token_ids), skip_special_tokens=True)
        return text

    def stats(self) -> EngineStats:
        self.engine.handle(GetStats("s"))
        stats = self.sent[-1]
        assert isinstance(stats, EngineStats)
        return stats

    def _spoken(self, token_ids: Sequence[int]) -> list[int]:
        return [token for token in token_ids if token != self.eos]

    def _step(self) -> None:
        self._woken.clear()
        if not self.engine.step():
            self._woken.wait(0.2)


def _note(message: FromEngine, answers: dict[str, Answer]) -> None:
    match message:
        case RequestFailed(request_id=request_id, code=code, message=text):
            answers[request_id].end, answers[request_id].message = code, text
        case StepOutput(outputs=outputs):
            for output in outputs:
                answer = answers[output.request_id]
                assert answer.end is None, "tokens after the end"
                answer.token_ids += output.token_ids
                answer.end = output.finish_reason
