"""The engine with a real (tiny) model: greedy tokens equal transformers and PEFT, whatever the
batch, the chunks and the preemptions are."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from motet.core.config import EngineConfig
from motet.core.messages import (
    AdapterLoaded,
    AddRequest,
    EngineReady,
    EngineStats,
    FromEngine,
    GetMemory,
    LoadAdapter,
    MemoryReport,
    StepOutput,
)
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape, Module
from motet.engine.build import Variant, build_engine
from motet.engine.engine import Engine
from motet.engine.runner import ModelRunner
from motet.memory.geometry import PageGeometry
from tests.adapters.make import AdapterSpec, write_lora
from tests.models.tiny import VOCAB_SIZE, random_tokens, save_tiny_model

SPECS = {
    "all": AdapterSpec(rank=4, seed=1, scale=0.2),
    "attention": AdapterSpec(
        rank=8, seed=2, scale=0.2, modules=(Module.Q, Module.K, Module.V, Module.O)
    ),
    "mlp-rslora": AdapterSpec(
        rank=3, seed=3, scale=0.2, modules=(Module.GATE, Module.UP, Module.DOWN), use_rslora=True
    ),
    "one-layer": AdapterSpec(rank=6, seed=4, scale=0.2, layers=(1,)),
    "mixed-ranks": AdapterSpec(
        rank=2, seed=5, scale=0.2, ranks={(0, Module.Q): 9, (2, Module.DOWN): 1}
    ),
}


@dataclass
class Case:
    """One request and what the oracle says to it."""

    adapter: str | None
    prompt: list[int]
    expected: list[int]


@dataclass
class World:
    """A tiny model on disk, adapters for it, and the oracle's answers."""

    model_dir: Path
    adapter_dirs: dict[str, Path]
    cases: list[Case]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    model = save_tiny_model(request.param, root / "model")
    shape = shape_of(model)
    adapter_dirs = {name: write_lora(root / name, shape, spec) for name, spec in SPECS.items()}
    oracle = with_adapters(model, adapter_dirs)
    generator = torch.Generator().manual_seed(0)
    cases = []
    for index in range(12):
        adapter = [None, *SPECS][index % (len(SPECS) + 1)]
        prompt = random_tokens(generator, 3 + 3 * index)
        cases.append(Case(adapter, prompt, greedy(oracle, adapter, prompt, 20 - index)))
    return World(root / "model", adapter_dirs, cases)


def shape_of(model: PreTrainedModel) -> ModelShape:
    config = model.config
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        vocab_size=VOCAB_SIZE,
    )


def with_adapters(model: PreTrainedModel, adapter_dirs: dict[str, Path]) -> PeftModel:
    (first, first_dir), *others = adapter_dirs.items()
    oracle = PeftModel.from_pretrained(model, first_dir, adapter_name=first)
    for name, directory in others:
        oracle.load_adapter(directory, adapter_name=name)
    return oracle.eval()


@torch.inference_mode()
def greedy(oracle: PeftModel, adapter: str | None, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy tokens by full recomputation: no cache that could go wrong."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        if adapter is None:
            with oracle.disable_adapter():
                logits = oracle(torch.tensor([tokens])).logits
        else:
            oracle.set_adapter(adapter)
            logits = oracle(torch.tensor([tokens])).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


class Session:
    """An engine in this process, stepped by the test."""

    def __init__(self, config: EngineConfig, variant: Variant | None = None) -> None:
        self.sent: list[FromEngine] = []
        self._woken = threading.Event()
        self.engine: Engine
        self.ready: EngineReady
        self.engine, self.ready = build_engine(config, self._woken.set, self.sent.append, variant)

    def load(self, directory: Path) -> str:
        num_sent = len(self.sent)
        self.engine.handle(LoadAdapter(directory.name, str(directory)))
        self._step_until(lambda: len(self.sent) > num_sent)
        loaded = self.sent[-1]
        assert isinstance(loaded, AdapterLoaded), loaded
        return loaded.info.digest

    def generate(self, requests: dict[str, AddRequest]) -> dict[str, list[int]]:
        """Run requests together to their ends; their tokens."""
        tokens: dict[str, list[int]] = {name: [] for name in requests}
        ended: set[str] = set()
        for request in requests.values():
            self.engine.handle(request)
        seen = len(self.sent)

        def is_done() -> bool:
            nonlocal seen
            for message in self.sent[seen:]:
                assert isinstance(message, StepOutput), message
                for output in message.outputs:
                    tokens[output.request_id] += output.token_ids
                    if output.finish_reason is not None:
                        ended.add(output.request_id)
            seen = len(self.sent)
            return len(ended) == len(requests)

        self._step_until(is_done)
        return tokens

    def stats(self) -> EngineStats:
        self.engine.handle(GetMemory("s"))
        report = self.sent[-1]
        assert isinstance(report, MemoryReport)
        return report.stats

    def _step_until(self, condition: "object") -> None:
        deadline = time.monotonic() + 60
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, self.sent[-3:]
            self._woken.clear()
            if not self.engine.step():
                self._woken.wait(0.2)


@pytest.fixture(
    params=[
        {"pool_memory_bytes": 1 << 26},
        {"pool_memory_bytes": 1 << 26, "max_step_tokens": 7},
        {"pool_memory_bytes": 1 << 26, "max_running": 2, "page_size": 32},
        {"num_pages": 14},
        {"pool_memory_bytes": 1 << 26, "max_step_tokens": 33, "overlaps": True},
        {"num_pages": 14, "overlaps": True},
    ],
    ids=[
        "roomy",
        "small-chunks",
        "two-at-a-time",
        "short-of-pages",
        "overlapped",
        "overlapped-short-of-pages",
    ],
)
def session(
    request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    options = dict(request.param)
    if options.pop("overlaps", False):
        monkeypatch.setattr(ModelRunner, "overlaps", True)
    num_pages = options.pop("num_pages", None)
    if num_pages is not None:
        options["pool_memory_bytes"] = bytes_of_pages(world, num_pages)
    session = Session(EngineConfig(model=str(world.model_dir), device="cpu", **options))
    assert num_pages is None or session.ready.num_pages == num_pages
    yield session
    while session.engine.step():
        pass
    stats = session.stats()
    assert stats.num_pages_free + stats.num_pages_cached == stats.num_pages_total
    session.engine.close()


def bytes_of_pages(world: World, num_pages: int) -> int:
    """A pool budget that gives exactly this many pages of 16 tokens."""
    from motet.memory.device_pool import num_pages_in
    from motet.models.config import load_config

    geometry = PageGeometry(load_config(world.model_dir).shape, 16)
    budget_bytes = num_pages * geometry.page_bytes(4)
    while num_pages_in(geometry, budget_bytes, torch.float32) < num_pages:
        budget_bytes += 64
    return budget_bytes


def test_all_cases_in_one_batch_equal_the_oracle(session: Session, world: World) -> None:
    digests = {name: session.load(path) for name, path in world.adapter_dirs.items()}
    requests = {
        str(index): AddRequest(
            str(index),
            case.prompt,
            SamplingParams(max_tokens=len(case.expected), temperature=0),
            digests[case.adapter] if case.adapter else None,
        )
        for index, case in enumerate(world.cases)
    }
    tokens = session.generate(requests)
    assert tokens == {str(i): case.expected for i, case in enumerate(world.cases)}


def test_what_comes_from_the_prefix_cache_equals_the_oracle(session: Session, world: World) -> None:
    """Each case again, as one that goes on from its prompt and most of its answer."""
    digests = {name: session.load(path) for name, path in world.adapter_dirs.items()}
    expected = {}
    for turn in ("first", "again"):
        requests = {}
        for index, case in enumerate(world.cases):
            num_known = 0 if turn == "first" else len(case.expected) - 2
            name = f"{turn}-{index}"
            expected[name] = case.expected[num_known:]
            requests[name] = AddRequest(
                name,
                case.prompt + case.expected[:num_known],
                SamplingParams(max_tokens=len(expected[name]), temperature=0),
                digests[case.adapter] if case.adapter else None,
            )
        tokens = session.generate(requests)
        assert tokens == {name: expected[name] for name in requests}
    if session.ready.num_pages > 14:  # else what was kept may have had to go
        assert session.stats().num_prefix_hit_tokens > 0


def test_sequences_are_preempted_when_pages_run_out_and_answer_as_before(world: World) -> None:
    options = {"model": str(world.model_dir), "device": "cpu"}
    prompt = world.cases[0].prompt
    requests = {  # with prompts that differ from the first token on, so that no pages are shared
        str(i): AddRequest(
            str(i),
            [3 + i, *prompt[1:]],
            SamplingParams(max_tokens=40, temperature=0.8, seed=i),
            None,
        )
        for i in range(6)
    }
    roomy = Session(EngineConfig(**options, pool_memory_bytes=1 << 26))
    short = Session(EngineConfig(**options, pool_memory_bytes=bytes_of_pages(world, 8)))
    assert short.generate(requests) == roomy.generate(requests)
    assert short.stats().num_preemptions > 0 == roomy.stats().num_preemptions
    assert short.stats().num_pages_free + short.stats().num_pages_cached == 8


def test_a_seed_fixes_the_tokens_whatever_else_runs(world: World) -> None:
    session = Session(
        EngineConfig(model=str(world.model_dir), device="cpu", pool_memory_bytes=1 << 26)
    )
    prompt = world.cases[3].prompt

    def request(name: str, seed: int) -> AddRequest:
        return AddRequest(name, prompt, SamplingParams(max_tokens=20, seed=seed), None)

    alone = session.generate({"a": request("a", 5)})["a"]
    crowd = session.generate({str(i): request(str(i), i) for i in range(8)})
    assert crowd["5"] == alone
    assert len({tuple(tokens) for tokens in crowd.values()}) == 8


def test_overlapped_steps_draw_the_same_tokens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds, penalties, stop tokens and preemptions, either way."""
    prompts = [case.prompt for case in world.cases]
    requests = {
        str(i): AddRequest(
            str(i),
            prompts[i],
            SamplingParams(
                max_tokens=24,
                temperature=[0.0, 0.7, 1.3][i % 3],
                top_p=[1.0, 0.8][i % 2],
                seed=i,
                presence_penalty=1.5 if i == 4 else 0.0,
                stop_token_ids=tuple(range(i % 4, 131, 9)),
            ),
            None,
        )
        for i in range(8)
    }
    tokens = {}
    for overlaps in (False, True):
        monkeypatch.setattr(ModelRunner, "overlaps", overlaps)
        session = Session(
            EngineConfig(
                model=str(world.model_dir),
                device="cpu",
                pool_memory_bytes=bytes_of_pages(world, 12),
            )
        )
        tokens[overlaps] = session.generate(requests)
        session.engine.close()
    assert tokens[True] == tokens[False]
    assert {len(each) for each in tokens[True].values()} != {24}, "no stop token was met"
