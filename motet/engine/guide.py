"""What keeps one sequence to its grammar.

Owns: the sequence's matcher, from its compilation to the end of the output or a failure.
Does not know: the batch; what a mask does to logits (`token_mask.py`).
"""

from llguidance import LLMatcher

from motet.engine.grammar import failure_of


class GrammarGuide:
    """Follows the output of one sequence along its grammar: a `scheduler.sequence.Guide`.

    Attributes:
        error: why it cannot go on; None while it can.
    """

    def __init__(self) -> None:
        self._matcher: LLMatcher | None = None
        self._vocab_size = 0
        self.error: str | None = None

    def start(self, matcher: LLMatcher, vocab_size: int) -> None:
        """Begin, with a matcher of its own; its masks have a bit for each of `vocab_size`."""
        self._matcher = matcher
        self._vocab_size = vocab_size

    def fail(self, reason: str) -> None:
        """Give up; the sequence ends when its next token is committed."""
        self.error = reason

    @property
    def is_ready(self) -> bool:
        """Whether the grammar has been compiled."""
        return self._matcher is not None

    @property
    def matcher(self) -> LLMatcher:
        """The matcher, once it is ready."""
        assert self._matcher is not None, "its grammar has not been compiled"
        return self._matcher

    @property
    def vocab_size(self) -> int:
        """Tokens that a mask tells of, once it is ready."""
        return self._vocab_size

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow."""
        return bool(self.matcher.is_stopped())

    def accept(self, token_id: int) -> None:
        """Follow the output by one token; does nothing after a failure."""
        if self.error is None and not self.matcher.consume_token(token_id):
            self.fail(failure_of(self.matcher))
