"""What keeps one sequence to its grammar.

Owns: the sequence's matcher, from its compilation to the end of the output or a failure.
Does not know: the batch; what a mask does to logits (`token_mask.py`).
"""

from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask

from motet.engine.grammar import Masks, failure_of


class GrammarGuide:
    """Follows the output of one sequence along its grammar: a `scheduler.sequence.Guide`.

    Attributes:
        error: why it cannot go on; None while it can. The sequence ends when its next token is
            committed.
    """

    def __init__(self) -> None:
        self._matcher: LLMatcher | None = None
        self._vocab_size = 0
        self.error: str | None = None

    def start(self, matcher: LLMatcher, vocab_size: int) -> None:
        """Begin, with a matcher of its own; its masks have a bit for each of `vocab_size`."""
        self._matcher = matcher
        self._vocab_size = vocab_size

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
        matcher = self._started()
        fill_next_token_bitmask(matcher, masks, index)
        if matcher.is_error():
            self.error = failure_of(matcher)
        elif not masks[index].any():
            self.error = "no token of the vocabulary continues it"
        return self.error is None

    def accept(self, token_id: int) -> None:
        """Follow the output by one token; does nothing after a failure."""
        matcher = self._started()
        if self.error is None and not matcher.consume_token(token_id):
            self.error = failure_of(matcher)

    def _started(self) -> LLMatcher:
        assert self._matcher is not None, "its grammar has not been compiled"
        return self._matcher
