"""What keeps one sequence to its grammar.

Owns: the sequence's matcher, from its compilation to the end of the output or a failure.
Does not know: the batch; what a mask does to logits (`token_mask.py`).

Matchers of one grammar share a lexer, which grows with all that they see and stays broken once it
has grown beyond a limit. So a failure may be another sequence's: before a guide gives up, it
follows its output once more with a matcher that shares nothing.
"""

from collections.abc import Callable

from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask

from motet.engine.grammar import GrammarError, Masks, failure_of


class GrammarGuide:
    """Follows the output of one sequence along its grammar: a `scheduler.sequence.Guide`.

    Attributes:
        error: why it cannot go on; None while it can. The sequence ends when its next token is
            committed.
    """

    def __init__(self) -> None:
        self._matcher: LLMatcher | None = None
        self._vocab_size = 0
        self._compile_anew: Callable[[], LLMatcher] | None = None
        self._token_ids: list[int] = []  # the output so far
        self.error: str | None = None

    def start(
        self,
        matcher: LLMatcher,
        vocab_size: int,
        compile_anew: Callable[[], LLMatcher] | None = None,
    ) -> None:
        """Begin.

        Args:
            matcher: at the beginning; nobody else advances it.
            vocab_size: tokens that a mask has a bit for.
            compile_anew: makes a matcher that shares nothing, or raises GrammarError; None if
                that would take too long.
        """
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._compile_anew = compile_anew

    @property
    def is_ready(self) -> bool:
        """Whether the grammar has been compiled."""
        return self._matcher is not None

    @property
    def vocab_size(self) -> int:
        """Tokens that a mask tells of, once it is ready."""
        return self._vocab_size

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._started().is_stopped())

    def fill(self, masks: Masks, index: int) -> bool:
        """Write the mask of the next token into one row; False if it fails."""
        fill_next_token_bitmask(self._started(), masks, index)
        if self._started().is_error() and self._starts_anew():
            fill_next_token_bitmask(self._started(), masks, index)
        if self._started().is_error():
            self.error = failure_of(self._started())
        elif not masks[index].any():
            self.error = "no token of the vocabulary continues it"
        return self.error is None

    def accept(self, token_id: int) -> None:
        """Follow the output by one token; does nothing after a failure."""
        if self.error is not None:
            return
        self._token_ids.append(token_id)
        if not self._started().consume_token(token_id) and not self._starts_anew():
            self.error = failure_of(self._started())

    def _starts_anew(self) -> bool:
        """Follow all of the output with a new matcher, the first time; whether that went well."""
        compile_anew, self._compile_anew = self._compile_anew, None
        if compile_anew is None:
            return False
        try:
            matcher = compile_anew()
        except GrammarError:
            return False  # the failure that led here is told
        self._matcher = matcher
        return bool(matcher.try_consume_tokens(self._token_ids) == len(self._token_ids))

    def _started(self) -> LLMatcher:
        assert self._matcher is not None, "its grammar has not been compiled"
        return self._matcher
