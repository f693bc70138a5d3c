"""Grammars compiled beside the running step.

Owns: the threads that compile, the grammars that are being compiled and for whom, and a bounded
number of compiled ones.
Does not know: the scheduler. Its requests wait there, and are passed over until they are ready.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import NamedTuple

import msgspec
from llguidance import LLMatcher, LLTokenizer

from motet.core.messages import AddRequest
from motet.engine.grammar import GrammarError, compile_grammar
from motet.engine.guide import GrammarGuide

# A second thread, so that one slow grammar does not hold up all others.
_NUM_THREADS = 2
# Compiled grammars to keep. Real services have a few dozen; a large one takes some MB.
_MAX_KEPT = 64
# A grammar that took longer is not compiled again within a step: everybody would wait for it.
_MAX_COMPILE_IN_STEP_S = 0.05

_log = logging.getLogger(__name__)


def under_grammar(request: AddRequest) -> AddRequest:
    """The request without `min_tokens`: its grammar alone says when the output may end."""
    sampling = msgspec.structs.replace(request.sampling, min_tokens=0)
    return msgspec.structs.replace(request, sampling=sampling)


@dataclass(frozen=True, slots=True)
class _Compiled:
    matcher: LLMatcher  # never advanced: sequences get copies
    vocab_size: int
    compile_s: float


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str


class _Waiting(NamedTuple):
    request_id: str
    guide: GrammarGuide


class FailedGrammar(NamedTuple):
    """A request whose grammar cannot be compiled, and why."""

    request_id: str
    reason: str


class GrammarCompiler:
    """Gives sequences their guides. All methods are for the engine's thread.

    Args:
        load_tokenizer: reads the model's vocabulary; called in a thread, when it is first needed.
            Raises GrammarError.
        wake: called from a thread when `poll` has something to do.
    """

    def __init__(self, load_tokenizer: Callable[[], LLTokenizer], wake: Callable[[], None]) -> None:
        self._load_tokenizer = load_tokenizer
        self._wake = wake
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
        self._waiting: dict[str, list[_Waiting]] = {}  # by grammar, while that is being compiled
        self._done: SimpleQueue[tuple[str, _Compiled | _Refused]] = SimpleQueue()
        self._kept: OrderedDict[str, _Compiled] = OrderedDict()  # the longest unused first

    def guide(self, request_id: str, grammar: str) -> GrammarGuide:
        """A guide for a new sequence, ready at once if its grammar is known."""
        guide = GrammarGuide()
        if (compiled := self._kept.get(grammar)) is not None:
            self._kept.move_to_end(grammar)
            self._start(guide, grammar, compiled)
        elif grammar in self._waiting:
            self._waiting[grammar].append(_Waiting(request_id, guide))
        else:
            self._waiting[grammar] = [_Waiting(request_id, guide)]
            self._threads.submit(self._work, grammar)
        return guide

    def poll(self) -> list[FailedGrammar]:
        """Start the guides whose grammars were compiled; the requests whose were refused."""
        failed: list[FailedGrammar] = []
        while True:
            try:
                grammar, outcome = self._done.get_nowait()
            except Empty:
                return failed
            waiting = self._waiting.pop(grammar)
            match outcome:
                case _Compiled():
                    self._keep(grammar, outcome)
                    for each in waiting:
                        self._start(each.guide, grammar, outcome)
                case _Refused(reason=reason):
                    failed += [FailedGrammar(each.request_id, reason) for each in waiting]

    def forget(self, grammar: str) -> None:
        """Have a grammar compiled anew: copies share a lexer, which stays as it failed."""
        self._kept.pop(grammar, None)

    def close(self) -> None:
        """End the threads; what has not begun is not compiled any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _keep(self, grammar: str, compiled: _Compiled) -> None:
        self._kept[grammar] = compiled
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)

    def _start(self, guide: GrammarGuide, grammar: str, compiled: _Compiled) -> None:
        is_quick = compiled.compile_s <= _MAX_COMPILE_IN_STEP_S
        compile_anew = partial(self._compile_anew, grammar, compiled) if is_quick else None
        guide.start(compiled.matcher.deep_copy(), compiled.vocab_size, compile_anew)

    def _compile_anew(self, grammar: str, broken: _Compiled) -> LLMatcher:
        """For a sequence whose copy of `broken` has failed: a matcher of its own."""
        if self._kept.get(grammar) is broken:
            self.forget(grammar)
        assert self._tokenizer is not None, "what was compiled had it"
        return compile_grammar(self._tokenizer, grammar)

    def _work(self, grammar: str) -> None:
        """In a thread: compile, and say so."""
        try:
            outcome = self._compile(grammar)
        except BaseException as error:  # a panic of the library's is no Exception
            _log.error("a grammar could not be compiled: %s", type(error).__name__)
            outcome = _Refused("it cannot be compiled")
        self._done.put((grammar, outcome))
        self._wake()

    def _compile(self, grammar: str) -> _Compiled | _Refused:
        try:
            with self._tokenizer_lock:
                if self._tokenizer is None:
                    self._tokenizer = self._load_tokenizer()
            started_s = time.monotonic()
            matcher = compile_grammar(self._tokenizer, grammar)
        except GrammarError as error:
            return _Refused(error.message)
        return _Compiled(matcher, self._tokenizer.vocab_size, time.monotonic() - started_s)
