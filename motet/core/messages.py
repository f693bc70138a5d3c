"""What the API process and the engine process say to each other.

Owns: the message types and their encoding (msgspec's MessagePack, tagged by type name).
Does not know: the socket they travel on, nor HTTP.

Messages from one process arrive in the order in which they were sent. The API process relies on
it: a `ReleaseAdapter` never overtakes an `AddRequest` that names the same digest.
"""

import msgspec

from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape


class WeightedAdapter(msgspec.Struct, frozen=True):
    """One part of a composition: an adapter, and the factor on its delta."""

    digest: str
    weight: float


class AddRequest(msgspec.Struct, tag=True, frozen=True):
    """Generate for these tokens.

    Attributes:
        digest: the content of the adapter, of the routed set, or of the composition; None is the
            base model.
        prefix_scope: whose prefix cache it reads and fills; requests of one scope share, others
            never do. None is a scope like any other.
        priority: waiting requests of a lower number come first; those of one number by arrival.
        parts: of a composition, in any order: plain adapters, each once. Without any, `digest` is
            that of one adapter or routed set.
        returns_routing: of a routed set, tell with each token which experts it came from.
        tenant: who pays for it, for policies that are fair; None is a tenant like any other.
        weight: the tenant's share relative to others; positive.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    digest: str | None
    prefix_scope: str | None = None
    priority: int = 0
    parts: list[WeightedAdapter] = []
    returns_routing: bool = False
    tenant: str | None = None
    weight: float = 1.0


class AbortRequest(msgspec.Struct, tag=True, frozen=True):
    """Forget a request and free all that it holds. Unknown ids are ignored."""

    request_id: str


class LoadAdapter(msgspec.Struct, tag=True, frozen=True):
    """Read, check and keep an adapter. Answered by `AdapterLoaded` or `AdapterRefused`.

    Each `AdapterLoaded` takes one reference on the digest; `ReleaseAdapter` gives it back.
    `path` has already been confined to the allowed roots and resolved.

    Attributes:
        expert_paths: of a routed set, the directories of its experts and then of its shared
            adapters, in the order of its configuration, confined and resolved as `path` is. The
            reference on the set is one on each of them too.
    """

    operation_id: str
    path: str
    expert_paths: list[str] = []


class ReleaseAdapter(msgspec.Struct, tag=True, frozen=True):
    """Give back the reference that was taken with this path.

    Without references an adapter goes when its last request ends.
    """

    digest: str
    path: str


class PinAdapter(msgspec.Struct, tag=True, frozen=True):
    """Bring an adapter to the device and keep it there, until as many `UnpinAdapter` have come.

    Answered by `AdapterPinned` once it is there (it comes as soon as there is room), or by
    `AdapterRefused` if pinned adapters would leave too little of the pool, or it cannot come.
    """

    operation_id: str
    digest: str


class UnpinAdapter(msgspec.Struct, tag=True, frozen=True):
    """Take one pin back. Unknown digests are ignored."""

    digest: str


class GetStats(msgspec.Struct, tag=True, frozen=True):
    """Ask for one `EngineStats`."""

    operation_id: str


class GetMemory(msgspec.Struct, tag=True, frozen=True):
    """Ask for one `MemoryReport`."""

    operation_id: str


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Ask for a `Pong`: the engine sends it between two steps, so it says that there are steps."""

    operation_id: str


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """End the engine process."""


ToEngine = (
    AddRequest
    | AbortRequest
    | LoadAdapter
    | ReleaseAdapter
    | PinAdapter
    | UnpinAdapter
    | GetStats
    | GetMemory
    | Ping
    | Shutdown
)


class EngineReady(msgspec.Struct, tag=True, frozen=True):
    """The engine can take requests."""

    model_name: str
    shape: ModelShape
    dtype: str
    device: str
    max_model_len: int
    page_size: int  # KV tokens in a page
    page_bytes: int  # bytes of one page, all layers together
    num_pages: int


class EngineFailed(msgspec.Struct, tag=True, frozen=True):
    """The engine could not start, and says why before it exits."""

    message: str
    code: str


class TokenLogprobs(msgspec.Struct, frozen=True):
    """How likely a token was, by the model's own logits: before bias, penalties and temperature.

    All values are natural logarithms, from -10000 (for what has no probability at all) to 0.

    Attributes:
        rank: 1 for the likeliest token of the vocabulary.
        top_token_ids, top_logprobs: the likeliest tokens, descending, as many as were asked for.
    """

    token_id: int
    logprob: float
    rank: int
    top_token_ids: list[int]
    top_logprobs: list[float]


class TokenOutput(msgspec.Struct, frozen=True):
    """New tokens of one request. After a `finish_reason` ("stop" or "length") nothing follows.

    Attributes:
        token_ids: the new tokens; none, if only the prompt was to be computed.
        num_cached_tokens: prompt tokens that came from the prefix cache; the same in all outputs
            of a request.
        logprobs: of each new token, if they were asked for.
        prompt_logprobs: of the prompt's tokens from the second on, if they were asked for; in the
            first output of a request.
        queue_s: how long the request waited until it first ran; the same in all its outputs.
        routing: for each new token, if it was asked for, the weight of each expert (or of each
            rank, where a router gates ranks) where the token came from, in the order of the set,
            averaged over all projections that the router is used in.
    """

    request_id: str
    token_ids: list[int]
    finish_reason: str | None = None
    num_cached_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    queue_s: float = 0.0
    routing: list[list[float]] | None = None


class StepOutput(msgspec.Struct, tag=True, frozen=True):
    """The tokens of one step."""

    outputs: list[TokenOutput]


class RequestFailed(msgspec.Struct, tag=True, frozen=True):
    """A request ended with an error; nothing of it is left in the engine.

    Attributes:
        retry_after_s: when it may be worth another try; None if the error does not pass by itself.
    """

    request_id: str
    code: str
    message: str
    retry_after_s: float | None = None


class RoutedSetInfo(msgspec.Struct, frozen=True):
    """What makes a routed set of its experts.

    Attributes:
        method: as `adapters/router_config.py` names it.
        experts: digests, in the order of the gates.
        names: of the experts, in the same order, for people.
        shared: digests of adapters that every token of the set uses.
        by_rank: gates are for ranks of the only expert.
    """

    method: str
    experts: list[str]
    names: list[str]
    shared: list[str]
    by_rank: bool = False


class AdapterInfo(msgspec.Struct, frozen=True):
    """What is known of a loaded adapter or routed set; of a set, its experts are counted in."""

    digest: str
    max_rank: int
    modules: list[str]  # names of the touched projections: "q", "k", ... "down"
    num_parameters: int
    num_pages: int  # pages it takes on the device
    routed: RoutedSetInfo | None = None  # None: a plain adapter


class AdapterLoaded(msgspec.Struct, tag=True, frozen=True):
    """The adapter was checked and is kept in host memory, ready to be paged in."""

    operation_id: str
    info: AdapterInfo


class AdapterRefused(msgspec.Struct, tag=True, frozen=True):
    """The adapter was refused, and nothing of it was kept."""

    operation_id: str
    code: str
    message: str


class AdapterPinned(msgspec.Struct, tag=True, frozen=True):
    """The adapter is on the device, and pinned."""

    operation_id: str


class Pong(msgspec.Struct, tag=True, frozen=True):
    """The engine is alive."""

    operation_id: str


class EngineStats(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A snapshot of the engine. Page counts: free + cached + kv + adapters-in-use == total.

    Counters (`num_…s` of events, `…_s` of their durations) run from the engine's start.
    """

    operation_id: str
    # Pages of the pool.
    num_pages_total: int
    num_pages_free: int
    num_pages_cached: int  # idle adapters and cached prefixes that no request uses
    num_pages_cached_prefix: int  # of these, cached prefixes
    num_pages_kv: int  # of running requests, shared ones counted once
    num_pages_adapters_in_use: int  # used by a request, being copied, or pinned
    num_pages_pinned: int  # of these, pinned
    # How full the pages are, in elements. Free pages and cached prefixes have no waste inside.
    adapter_fill: float  # resident adapters: rank rows over their pages, 0 to 1; 1 without any
    kv_fill: float  # running requests: computed tokens over the room for tokens in their pages
    # Requests.
    num_running: int
    num_waiting: int
    num_preemptions: int
    num_refusals: int  # requests that the scheduling policy gave up
    num_steps: int
    num_prompt_tokens: int
    num_output_tokens: int
    # The prefix cache.
    num_prefix_lookup_tokens: int  # prompt tokens of admitted requests
    num_prefix_hit_tokens: int  # of these, found in the cache
    num_prefix_evictions: int  # pages
    # Adapters and their tiers.
    num_adapters_known: int
    host_bytes_budget: int
    host_bytes_used: int
    num_adapters_on_host: int
    num_adapter_hits: int  # queued requests whose adapters were all on the device
    num_adapter_misses: int  # queued requests of which one was not
    num_adapter_reads: int  # disk to host
    num_adapter_read_failures: int
    adapter_read_s: float
    num_adapter_loads: int  # host to device
    adapter_load_s: float
    num_adapter_evictions: int  # from the device
    num_host_evictions: int
    running_adapters: list[str]  # digests; of compositions and routed sets, all members
    waiting_adapters: list[str]
    resident_adapters: list[str]


class AdapterMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What one adapter takes. At least one of its tiers is not empty."""

    digest: str
    device_state: str | None  # "resident", "loading", or None
    num_pages: int  # on the device; 0 unless it is there
    num_prefix_pages: int  # cached pages computed with it
    num_users: int  # running sequences
    is_pinned: bool
    host_bytes: int  # 0 without a host copy


class MemoryReport(msgspec.Struct, tag=True, frozen=True):
    """Where everything is: `stats`, and each adapter on the device or in host memory.

    Adapters that are on disk alone are counted in `stats`, not listed: there may be very many.
    """

    operation_id: str
    stats: EngineStats
    num_base_prefix_pages: int  # cached pages computed without an adapter
    adapters: list[AdapterMemory]


FromEngine = (
    EngineReady
    | EngineFailed
    | StepOutput
    | RequestFailed
    | AdapterLoaded
    | AdapterRefused
    | AdapterPinned
    | Pong
    | EngineStats
    | MemoryReport
)

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
