"""One request as the scheduler sees it: its tokens, its pages, how far it has come.

Owns: the state of a running or waiting sequence, and what one step computes of it.
Does not know: the batch around it.

A step is scheduled, then it is in flight, then it is committed. Sequences may be scheduled while a
step is in flight that samples a token of theirs: that token counts, though nobody knows it yet.
"""

from collections.abc import Collection, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from motet.core.messages import TokenLogprobs
from motet.core.sampling import SamplingParams
from motet.memory.members import Members, MemberSlots
from motet.memory.page_pool import KV
from motet.memory.prefix_cache import PrefixPage, Scope
from motet.scheduler.policy import QueuedRequest

Place = tuple[int, int, int]
"""Priority; `OWED` or `NOT_OWED`, as the policy said when it was called; number of the call."""

OWED, NOT_OWED = 0, 1


class Guide(Protocol):
    """Keeps a sequence to its grammar: see `engine/guide.py`."""

    @property
    def error(self) -> str | None:
        """Why the grammar cannot be followed any further; None while it can."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it can be followed yet: compiling a grammar takes time."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow what was accepted."""
        ...

    def accept(self, token_id: int) -> None:
        """Follow the output by one token."""
        ...


@dataclass(eq=False, slots=True)
class Sequence:
    """A sequence of tokens: the prompt, then what was generated.

    Attributes:
        request_id: the request's id.
        prompt_token_ids: the prompt.
        sampling: how its tokens are chosen.
        digest: the adapter, composition or routed set it runs with, kept to the end; None is the
            base model.
        prefix_scope: whose prefix cache it uses.
        queued: what the policy sees of it.
        guide: follows its output along its grammar, through preemptions too; None is free text.
        members: what a composition or routed set consists of; None for a sequence of one adapter
            or none.
        returns_routing: whether it is told with each token which experts it came from.
        output_token_ids: what was generated so far, as far as it is known.
        num_tokens: tokens of the prompt, of the output, and those that steps in flight sample.
        num_computed_tokens: tokens whose KV is in its pages.
        num_scheduled_tokens: these, and the tokens whose KV steps in flight compute.
        is_over: it has ended; what a step in flight still computes of it is thrown away.
        row: its row in the page table while it runs.
        slot: the slot of its adapter while it runs; None is the base model. Of several adapters
            that all its tokens use, the slot of the first; None if there are none of these.
        member_slots: the slots of its members while it runs; None if it has no members.
        pages: its KV pages, in order.
        kept: the first of these, as the prefix cache knows them; the others are its own.
        num_cached_tokens: prompt tokens that it found in the prefix cache when it first ran.
        num_preemptions: how often it was sent back to the queue.
        queue_s: how long it waited until it first ran; None until then.
        prompt_logprobs: of the prompt's tokens from the second on, as far as they are known. They
            stay when it is preempted, and go with the first output. None, if they were not asked
            for or are gone.
        adapters: digests of all that has to be on the device while it runs, each once.
        place: where it stands among those that wait and among those that run; the least comes
            first. It has none until it is called.
        is_plainly_greedy: see `SamplingParams`, where it is worked out anew each time.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    digest: str | None
    prefix_scope: str | None
    queued: QueuedRequest
    guide: Guide | None = None
    members: Members | None = None
    returns_routing: bool = False
    output_token_ids: list[int] = field(default_factory=list)
    num_tokens: int = field(init=False)
    num_computed_tokens: int = 0
    num_scheduled_tokens: int = 0
    is_over: bool = False
    row: int | None = None
    slot: int | None = None
    member_slots: MemberSlots | None = None
    pages: list[int] = field(default_factory=list)
    kept: list[PrefixPage] = field(default_factory=list)
    num_cached_tokens: int | None = None
    num_preemptions: int = 0
    queue_s: float | None = None
    prompt_logprobs: list[TokenLogprobs] | None = field(init=False)
    adapters: tuple[str, ...] = field(init=False)
    place: Place = field(init=False)
    is_plainly_greedy: bool = field(init=False)
    max_num_tokens: int = field(init=False)
    """What it comes to if nothing ends it before its limit."""

    def __post_init__(self) -> None:
        self.num_tokens = len(self.prompt_token_ids)
        self.max_num_tokens = self.num_tokens + self.sampling.max_tokens
        self.prompt_logprobs = None if self.sampling.num_prompt_logprobs is None else []
        self.adapters = _adapters(self.digest, self.members)
        self.is_plainly_greedy = self.sampling.is_plainly_greedy

    @property
    def is_prompt_only(self) -> bool:
        """Whether it ends when its prompt is computed."""
        return self.sampling.max_tokens == 0

    @property
    def is_owed(self) -> bool:
        """Whether its place is owed to a called one: see `Policy.is_owed`."""
        return self.place[1] == OWED

    @property
    def is_in_flight(self) -> bool:
        """Whether a step that has been scheduled and not committed computes some of it."""
        return self.num_scheduled_tokens != self.num_computed_tokens

    @property
    def num_unscheduled_tokens(self) -> int:
        """Tokens that are still to be computed and that no step has been given.

        The last token that is generated is never computed: nothing follows from it. Where none is
        generated, all of the prompt is.
        """
        num_tokens = self.num_tokens
        if num_tokens == self.max_num_tokens and not self.is_prompt_only:
            num_tokens -= 1
        return num_tokens - self.num_scheduled_tokens

    @property
    def num_reusable_tokens(self) -> int:
        """Tokens at its beginning whose KV need not be computed, if the prefix cache has it.

        What is computed at a position tells of the token after it. So the last token is computed,
        and so are those of a prompt whose log probabilities are not known yet.
        """
        return self.num_tokens - 1 if self.prompt_logprobs is None else len(self.prompt_logprobs)

    @property
    def owner(self) -> str:
        """Its name in the page pool."""
        return f"{KV}:{self.request_id}"

    @property
    def scope(self) -> Scope:
        """Which part of the prefix cache it uses."""
        return self.prefix_scope, self.digest

    @property
    def parts(self) -> SequenceOf[str]:
        """The adapters of its composition, whose digest no adapter has; none if it has none."""
        is_composed = self.members is not None and self.members.router is None
        return self.adapters if is_composed else ()

    def token_ids(self, start: int, end: int) -> list[int]:
        """Tokens `start` to `end - 1` of prompt and output together."""
        num_prompt_tokens = len(self.prompt_token_ids)
        output_start = max(0, start - num_prompt_tokens)
        output_end = max(0, end - num_prompt_tokens)
        return self.prompt_token_ids[start:end] + self.output_token_ids[output_start:output_end]

    def schedule(self, num_new_tokens: int) -> "ScheduledChunk":
        """Give the next tokens to a step."""
        start = self.num_scheduled_tokens
        end = start + num_new_tokens
        num_known_tokens = len(self.prompt_token_ids) + len(self.output_token_ids)
        samples = end == self.num_tokens < self.max_num_tokens
        self.num_scheduled_tokens = end
        if samples:
            self.num_tokens += 1
        return ScheduledChunk(self, start, num_new_tokens, samples, start == num_known_tokens)

    def keep_prompt_logprobs(self, start: int, logprobs: list[TokenLogprobs]) -> None:
        """Add what a chunk told of the prompt.

        Args:
            start: the chunk's first position; all up to it is known.
            logprobs: of the tokens after this position and the next ones. A chunk that is computed
                again after a preemption tells some for the second time.
        """
        assert self.prompt_logprobs is not None, "nobody asked, or all was told"
        self.prompt_logprobs += logprobs[len(self.prompt_logprobs) - start :]

    def finish_reason(self) -> str | None:
        """Why it ends with its last token; None if it goes on."""
        if self.output_token_ids and self.output_token_ids[-1] in self.sampling.stop_token_ids:
            return "stop"
        if self.guide is not None and self.guide.is_over:
            return "stop"
        if len(self.output_token_ids) >= self.sampling.max_tokens:
            return "length"
        return None


def _adapters(digest: str | None, members: Members | None) -> tuple[str, ...]:
    if members is not None:
        return members.adapters
    return () if digest is None else (digest,)


class ScheduledChunk(NamedTuple):
    """The tokens of one sequence that a step computes.

    Attributes:
        sequence: whose.
        start: position of the first of them.
        num_new_tokens: how many.
        samples: whether a token is sampled after this chunk: it computes the last token there is.
        awaits_token: whether its one token is sampled by the step before, which is in flight.
    """

    sequence: Sequence
    start: int
    num_new_tokens: int
    samples: bool
    awaits_token: bool

    @property
    def end(self) -> int:
        """Position after the last of them: the length of the context."""
        return self.start + self.num_new_tokens

    @property
    def reported_positions(self) -> range:
        """Positions of this chunk whose logits tell how likely the prompt's next token was.

        None, unless that was asked for.
        """
        if self.sequence.prompt_logprobs is None:
            return range(0)
        return range(self.start, min(self.end, len(self.sequence.prompt_token_ids) - 1))

    @property
    def ends_prompt_only(self) -> bool:
        """Whether its sequence is done with it, and no token is sampled."""
        return self.sequence.is_prompt_only and self.end == self.sequence.max_num_tokens


@dataclass(frozen=True)
class Batch:
    """What one step computes. Decodes and prefill chunks are mixed."""

    chunks: list[ScheduledChunk]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_new_tokens for chunk in self.chunks)


Routing = Mapping[Sequence, list[float]]
"""The weight of each gate where a token came from, for the sequences that asked for it."""

NO_ROUTING: Routing = MappingProxyType({})
"""Of a batch in which nobody asked for any."""


@dataclass(frozen=True)
class BatchLogprobs:
    """The log probabilities that sequences of a batch asked for.

    Attributes:
        tokens: of the sampled token of each, a list of one.
        prompts: of the tokens after each of a chunk's `reported_positions`, in order.
        not_finite: sequences with logits for any of these that were not finite.
    """

    tokens: Mapping[Sequence, list[TokenLogprobs]] = field(default_factory=dict)
    prompts: Mapping[Sequence, list[TokenLogprobs]] = field(default_factory=dict)
    not_finite: Collection[Sequence] = ()


NO_LOGPROBS = BatchLogprobs()
"""Of a batch in which nobody asked for any."""
