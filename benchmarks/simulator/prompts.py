"""Prompts that cost nothing to make: each stream of tokens is one token over and over.

Owns: which token stands for which stream.
Does not know: models. Nobody computes anything from these tokens: the prefix cache only compares
them, and finds alike what a workload says is alike.
"""

from motet.bench.workload import WorkRequest

OUTPUT_TOKEN = 0
"""What every step generates. No prompt contains it, so no answer is found again in one."""


class StreamPrompts:
    """Gives each stream and each prefix a token of its own."""

    def __init__(self) -> None:
        self._tokens: dict[int | str, int] = {}

    def token_ids(self, request: WorkRequest) -> list[int]:
        """The prompt of a request."""
        num_own = request.num_prompt_tokens
        prefix: list[int] = []
        if request.prefix is not None:
            prefix = [self._token(request.prefix)] * request.num_prefix_tokens
            num_own -= request.num_prefix_tokens
        return prefix + [self._token(request.stream)] * num_own

    def _token(self, stream: int | str) -> int:
        return self._tokens.setdefault(stream, OUTPUT_TOKEN + 1 + len(self._tokens))
