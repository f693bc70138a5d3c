"""Grammars compiled against a vocabulary, by llguidance.

Owns: the tokenizer as llguidance reads it, the limits on what a grammar may cost, and compilation.
Does not know: threads and requests (`grammar_compiler.py`), sequences (`guide.py`), tensors.

It imports no torch, for the API process compiles every grammar with it too, in a process that can
be killed (`server/grammar_check.py`), before the engine is given it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask

from motet.core.errors import MotetError

# What one grammar may cost. llguidance counts work as "fuel" (about 14 to 50 thousand a ms) and
# as Earley items (about 20 thousand a ms), so no mask of a running sequence takes much above 10 ms;
# what a grammar needs once, at its first mask, is spent where it is compiled. A lexer state takes
# 1 to 2 kB.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,  # they would hold what was generated
)

Masks = npt.NDArray[np.int32]


class GrammarError(MotetError):
    """A grammar cannot be followed, or not any further."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="grammar_error")


def load_tokenizer(file: Path | None, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The vocabulary of a model.

    Args:
        file: its `tokenizer.json`; None if it has none.
        vocab_size: width of its logits; it is often more than the tokenizer has.
        eos_token_ids: the tokens that end an answer; without any, llguidance looks for one.

    Raises:
        GrammarError: there is no such file, or llguidance does not know tokenizers of its kind.
    """
    if file is None:
        raise GrammarError("this model has no tokenizer.json, so no grammar can be followed")
    eos = list(eos_token_ids) or None
    try:
        text = file.read_text("utf-8")
        try:
            return LLTokenizer(text, n_vocab=vocab_size, eos_token=eos)
        except ValueError:
            # It may also have more, which have no logits and so are never chosen.
            return LLTokenizer(text, eos_token=eos)
    except (OSError, ValueError) as error:
        raise GrammarError(
            f"this model's tokenizer.json cannot be used to constrain output: {error}"
        ) from error


def compile_grammar(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher at the beginning of the output, which knows the tokens that may come first.

    Args:
        tokenizer: the model's.
        grammar: as `LLMatcher.grammar_from_lark` and its like give it.

    Raises:
        GrammarError: the grammar is wrong, nothing satisfies it, or it exceeds a limit.
    """
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        # The lexer's first states are made here; copies of the matcher share them.
        fill_next_token_bitmask(matcher, new_masks(1, tokenizer.vocab_size))
    if matcher.is_error():
        raise GrammarError(failure_of(matcher))
    return matcher


def failure_of(matcher: LLMatcher) -> str:
    """Why a matcher failed, in llguidance's words."""
    reason: str = matcher.get_error().partition("\n<")[0].strip()
    return "no output satisfies it" if reason.startswith("NoExtension") else reason


def new_masks(num_rows: int, vocab_size: int) -> Masks:
    """Masks that allow nothing: int32 [num_rows, ceil(vocab_size / 32)], a bit for each token."""
    return np.zeros((num_rows, -(-vocab_size // 32)), np.int32)
