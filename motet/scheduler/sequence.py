"""One request as the scheduler sees it: its tokens, its pages, how far it has come.

Owns: the state of a running or waiting sequence.
Does not know: the batch around it.
"""

from dataclasses import dataclass, field

from motet.core.sampling import SamplingParams
from motet.memory.page_pool import KV
from motet.memory.prefix_cache import PrefixPage, Scope


@dataclass(eq=False)
class Sequence:
    """A sequence of tokens: the prompt, then what was generated.

    Attributes:
        request_id: the request's id.
        prompt_token_ids: the prompt.
        sampling: how its tokens are chosen.
        digest: the adapter it runs with, kept to the end; None is the base model.
        tenant: whose prefix cache it uses.
        arrival: order of arrival; a preempted sequence keeps it.
        output_token_ids: what was generated so far.
        num_computed_tokens: tokens whose KV is in its pages.
        pages: its KV pages, in order.
        kept: the first of these, as the prefix cache knows them; the others are its own.
        num_cached_tokens: prompt tokens that it found in the prefix cache when it first ran.
        num_preemptions: how often it was sent back to the queue.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    digest: str | None
    tenant: str | None
    arrival: int
    output_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    pages: list[int] = field(default_factory=list)
    kept: list[PrefixPage] = field(default_factory=list)
    num_cached_tokens: int | None = None
    num_preemptions: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def max_num_tokens(self) -> int:
        """What it comes to if nothing ends it before its limit."""
        return len(self.prompt_token_ids) + self.sampling.max_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def owner(self) -> str:
        """Its name in the page pool."""
        return f"{KV}:{self.request_id}"

    @property
    def scope(self) -> Scope:
        """Which part of the prefix cache it uses."""
        return self.tenant, self.digest

    def token_ids(self, start: int, end: int) -> list[int]:
        """Tokens `start` to `end - 1` of prompt and output together."""
        num_prompt_tokens = len(self.prompt_token_ids)
        output_start = max(0, start - num_prompt_tokens)
        output_end = max(0, end - num_prompt_tokens)
        return self.prompt_token_ids[start:end] + self.output_token_ids[output_start:output_end]

    def finish_reason(self) -> str | None:
        """Why it ends with its last token; None if it goes on."""
        if self.output_token_ids and self.output_token_ids[-1] in self.sampling.stop_token_ids:
            return "stop"
        if len(self.output_token_ids) >= self.sampling.max_tokens:
            return "length"
        return None


@dataclass(frozen=True)
class ScheduledChunk:
    """The tokens of one sequence that a step computes."""

    sequence: Sequence
    num_new_tokens: int

    @property
    def start(self) -> int:
        """Position of the first of them."""
        return self.sequence.num_computed_tokens

    @property
    def end(self) -> int:
        """Position after the last of them: the length of the context."""
        return self.start + self.num_new_tokens

    @property
    def samples(self) -> bool:
        """Whether a token follows from this chunk: it computes the last known token."""
        return self.end == self.sequence.num_tokens


@dataclass(frozen=True)
class Batch:
    """What one step computes. Decodes and prefill chunks are mixed."""

    chunks: list[ScheduledChunk]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_new_tokens for chunk in self.chunks)
