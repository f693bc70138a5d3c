"""Requests whose grammars are being compiled: whatever happens meanwhile, nothing is left over."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from motet.core.messages import AbortRequest, ReleaseAdapter
from motet.engine import grammar_compiler
from motet.engine.grammar import GrammarError, load_tokenizer, new_masks
from motet.engine.grammar_compiler import GrammarCompiler
from motet.engine.guide import GrammarGuide
from tests.engine.harness import Harness, adapter
from tests.server.tiny_model import write_tiny_model

ANYTHING = str(LLMatcher.grammar_from_regex("(.|\n){0,50}"))
BOMB = str(LLMatcher.grammar_from_regex("[ab]{3}(c{1000}){1000}|d"))
LETTERS = str(LLMatcher.grammar_from_regex("[a-z]{1,9}"))


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model")) / "tokenizer.json"


class Gate:
    """A compiler that waits until it is let go on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._is_open = threading.Event()
        self.compiler = GrammarCompiler(self._load, lambda: None)

    def open(self) -> None:
        self._is_open.set()

    def _load(self) -> LLTokenizer:
        assert self._is_open.wait(20)
        return load_tokenizer(self._file, 259, ())


@pytest.fixture
def gate(tokenizer_file: Path) -> Iterator[Gate]:
    gate = Gate(tokenizer_file)
    yield gate
    gate.open()
    gate.compiler.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_others_run_while_a_grammar_is_compiled(gate: Gate) -> None:
    harness = Harness(grammars=gate.compiler)
    harness.add("constrained", grammar=ANYTHING)
    harness.add("free")
    assert harness.finish("free") == "length"
    assert harness.tokens("constrained") == []
    gate.open()
    assert harness.finish("constrained") == "length"
    harness.finish_all_is_well()


def test_an_abort_meanwhile_leaves_nothing(gate: Gate) -> None:
    harness = Harness(grammars=gate.compiler)
    harness.add("constrained", grammar=ANYTHING)
    harness.engine.handle(AbortRequest("constrained"))
    gate.open()
    harness.add("next", grammar=ANYTHING)
    assert harness.finish("next") == "length"
    assert harness.end_of("constrained") is None
    harness.finish_all_is_well()


def test_an_adapter_that_is_released_meanwhile_stays_for_its_request(
    gate: Gate, tmp_path: Path
) -> None:
    harness = Harness(grammars=gate.compiler)
    path = adapter(tmp_path, "a")
    digest = harness.digest(path)
    harness.add("constrained", digest, grammar=ANYTHING)
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
    for _ in range(5):
        harness.engine.step()
    assert harness.stats().num_adapters_known == 1
    gate.open()
    assert harness.finish("constrained") == "length"
    assert harness.stats().num_adapters_known == 0
    harness.finish_all_is_well()


def test_a_refused_grammar_lets_its_adapter_go(gate: Gate, tmp_path: Path) -> None:
    harness = Harness(grammars=gate.compiler)
    path = adapter(tmp_path, "a")
    digest = harness.digest(path)
    harness.add("constrained", digest, grammar=str(LLMatcher.grammar_from_regex("(")))
    harness.engine.handle(ReleaseAdapter(digest, str(path)))
    gate.open()
    assert harness.finish("constrained") == "grammar_error"
    assert harness.stats().num_adapters_known == 0
    harness.finish_all_is_well()


def test_the_engine_ends_while_a_grammar_is_compiled(gate: Gate) -> None:
    harness = Harness(grammars=gate.compiler)
    harness.add("constrained", grammar=ANYTHING)
    harness.engine.close()


def test_a_sequence_that_leaves_its_grammar_fails_alone(gate: Gate) -> None:
    """The fake runner knows no masks: its tokens are no letters."""
    harness = Harness(grammars=gate.compiler)
    gate.open()
    harness.add("constrained", grammar=LETTERS)
    harness.add("free")
    assert harness.finish("constrained") == "grammar_error"
    assert harness.finish("free") == "length"
    harness.finish_all_is_well()


def test_logits_that_are_not_finite_are_the_models_fault(gate: Gate) -> None:
    harness = Harness(grammars=gate.compiler)
    gate.open()
    harness.add("nan", prompt=[99], grammar=ANYTHING)
    assert harness.finish("nan") == "model_error"
    harness.finish_all_is_well()


def ready(compiler: GrammarCompiler, guide: GrammarGuide) -> bool:
    assert compiler.poll() == []
    return guide.is_ready


def test_choices_of_one_request_share_a_compilation(gate: Gate) -> None:
    guides = [gate.compiler.guide(str(i), LETTERS) for i in range(16)]
    assert not any(guide.is_ready for guide in guides)
    gate.open()
    wait_until(lambda: ready(gate.compiler, guides[0]))
    assert all(guide.is_ready for guide in guides)
    assert gate.compiler.guide("later", LETTERS).is_ready


def test_compiled_grammars_are_bounded_and_the_longest_unused_goes_first(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "_MAX_KEPT", 2)
    gate.open()
    compiler = gate.compiler

    def compiled(regex: str) -> bool:
        """Whether it was known; then, or else, it is."""
        guide = compiler.guide("x", str(LLMatcher.grammar_from_regex(regex)))
        was_ready = guide.is_ready
        wait_until(lambda: ready(compiler, guide))
        return was_ready

    assert [compiled(each) for each in "abacab"] == [False, False, True, False, True, False]


def test_what_failed_is_compiled_anew(gate: Gate) -> None:
    gate.open()
    guide = gate.compiler.guide("a", LETTERS)
    wait_until(lambda: ready(gate.compiler, guide))
    gate.compiler.forget(LETTERS)
    assert not gate.compiler.guide("b", LETTERS).is_ready


def test_guides_of_one_grammar_go_their_own_ways(gate: Gate) -> None:
    gate.open()
    one, other = (gate.compiler.guide(name, LETTERS) for name in "ab")
    wait_until(lambda: ready(gate.compiler, one))
    one.accept(7)
    assert one.error is not None
    assert other.error is None
    assert not other.is_over


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    for file in (None, tmp_path / "tokenizer.json"):
        with pytest.raises(GrammarError, match=r"tokenizer\.json"):
            load_tokenizer(file, 259, ())


def test_a_tokenizer_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(GrammarError, match=r"tokenizer\.json cannot be used"):
        load_tokenizer(file, 259, ())


@pytest.mark.parametrize("vocab_size", [100, 259, 400])
def test_logits_may_be_wider_or_narrower_than_the_tokenizer(
    tokenizer_file: Path, vocab_size: int
) -> None:
    assert load_tokenizer(tokenizer_file, vocab_size, (257, 258)).vocab_size == max(259, vocab_size)


def test_a_grammar_serves_for_ever(gate: Gate) -> None:
    """What sequences share grows with each of them, to a limit that their number must not meet."""
    gate.open()
    grammar = str(LLMatcher.grammar_from_regex(".*a.{18}"))
    masks = new_masks(1, 259)
    draw = random.Random(1)
    for number in range(200):
        guide = gate.compiler.guide(str(number), grammar)
        wait_until(lambda guide=guide: ready(gate.compiler, guide))  # type: ignore[misc]
        for token_id in draw.choices([64, 65], k=60):
            assert guide.fill(masks, 0), guide.error
            guide.accept(token_id)


def test_a_slow_grammar_is_not_compiled_within_a_step(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "_MAX_COMPILE_IN_STEP_S", -1.0)
    gate.open()
    guides = [gate.compiler.guide(name, BOMB) for name in "ab"]
    wait_until(lambda: ready(gate.compiler, guides[1]))
    masks = new_masks(1, 259)
    for token_id in [64, 64, 64, 66]:
        guides[0].fill(masks, 0)
        guides[0].accept(token_id)
    assert guides[0].error
    assert not guides[1].fill(masks, 0)
