"""The words or tokens of a workload's prompts.

Owns: which text stands for which stream.
Does not know: tokenizers, nor how a prompt is sent.

A stream has no end: it is what SHAKE128, a hash of any length, makes of the seed and the stream's
name. So a longer prompt of a stream begins with the shorter ones, on any machine and in any order
of asking, and nothing is kept between two prompts.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from motet.bench.words import WORDS
from motet.bench.workload import WorkRequest


class PromptWriter:
    """Writes prompts. Equal seeds and requests give equal prompts.

    Two runs of one workload against one server need two seeds here, unless its prefix cache is to
    know the second run's prompts from the first.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def text(self, request: WorkRequest) -> str:
        """As many plain words as the prompt has tokens; common tokenizers make one of each."""
        prefix, rest = self._streams(request)
        codes = _octets(prefix, request.num_prefix_tokens)
        codes += _octets(rest, request.num_prompt_tokens - request.num_prefix_tokens)
        return " ".join(map(WORDS.__getitem__, codes))

    def token_ids(self, request: WorkRequest, token_ids: Sequence[int]) -> list[int]:
        """The prompt's tokens, exactly as many as it has, out of those given.

        Args:
            token_ids: what to choose from, such as a vocabulary without its special tokens.
        """
        prefix, rest = self._streams(request)
        num_rest = request.num_prompt_tokens - request.num_prefix_tokens
        numbers = np.concatenate(
            [_numbers(prefix, request.num_prefix_tokens), _numbers(rest, num_rest)]
        )
        places = numbers % len(token_ids)
        return [token_ids[place] for place in places.tolist()]

    def repeated(self, request: WorkRequest) -> str:
        """S-LoRA's own prompt: one word as often as the prompt has tokens.

        Every prompt is the beginning of a longer one, so a prefix cache knows nearly all of it.
        """
        return "Hello " * request.num_prompt_tokens

    def _streams(self, request: WorkRequest) -> tuple[bytes, bytes]:
        """The names of the streams of the prompt's first tokens, and of its others."""
        return (
            f"{self._seed} prefix {request.prefix}".encode(),
            f"{self._seed} stream {request.stream}".encode(),
        )


def _octets(stream: bytes, count: int) -> bytes:
    return hashlib.shake_128(stream).digest(count)


def _numbers(stream: bytes, count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
    return np.frombuffer(hashlib.shake_128(stream).digest(4 * count), dtype="<u4")
