"""What the API process and the engine process say to each other.

Owns: the message types and their encoding (msgspec's MessagePack, tagged by type name).
Does not know: the socket they travel on, nor HTTP.

Messages from one process arrive in the order in which they were sent. The API process relies on
it: a `ReleaseAdapter` never overtakes an `AddRequest` that names the same digest.
"""

import msgspec

from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape


class AddRequest(msgspec.Struct, tag=True, frozen=True):
    """Generate for these tokens. `digest` names the adapter's content; None is the base model."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    digest: str | None


class AbortRequest(msgspec.Struct, tag=True, frozen=True):
    """Forget a request and free all that it holds. Unknown ids are ignored."""

    request_id: str


class LoadAdapter(msgspec.Struct, tag=True, frozen=True):
    """Read, check and keep an adapter. Answered by `AdapterLoaded` or `AdapterRefused`.

    Each `AdapterLoaded` takes one reference on the digest; `ReleaseAdapter` gives it back.
    `path` has already been confined to the allowed roots and resolved.
    """

    operation_id: str
    path: str


class ReleaseAdapter(msgspec.Struct, tag=True, frozen=True):
    """Give back one reference. Without references an adapter goes when its last request ends."""

    digest: str


class GetStats(msgspec.Struct, tag=True, frozen=True):
    """Ask for one `EngineStats`."""

    operation_id: str


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """End the engine process."""


ToEngine = AddRequest | AbortRequest | LoadAdapter | ReleaseAdapter | GetStats | Shutdown


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


class TokenOutput(msgspec.Struct, frozen=True):
    """New tokens of one request. After a `finish_reason` ("stop" or "length") nothing follows."""

    request_id: str
    token_ids: list[int]
    finish_reason: str | None = None


class StepOutput(msgspec.Struct, tag=True, frozen=True):
    """The tokens of one step."""

    outputs: list[TokenOutput]


class RequestFailed(msgspec.Struct, tag=True, frozen=True):
    """A request ended with an error; nothing of it is left in the engine."""

    request_id: str
    code: str
    message: str


class AdapterInfo(msgspec.Struct, frozen=True):
    """What is known of a loaded adapter."""

    digest: str
    max_rank: int
    modules: list[str]  # names of the touched projections: "q", "k", ... "down"
    num_parameters: int
    num_pages: int  # pages it takes on the device


class AdapterLoaded(msgspec.Struct, tag=True, frozen=True):
    """The adapter was checked and is kept in host memory, ready to be paged in."""

    operation_id: str
    info: AdapterInfo


class AdapterRefused(msgspec.Struct, tag=True, frozen=True):
    """The adapter was refused, and nothing of it was kept."""

    operation_id: str
    code: str
    message: str


class EngineStats(msgspec.Struct, frozen=True, tag=True):
    """A snapshot of the engine. Page counts: free + cached + kv + adapters-in-use == total."""

    operation_id: str
    num_pages_total: int
    num_pages_free: int
    num_pages_cached: int  # resident adapters that no request uses
    num_pages_kv: int
    num_pages_adapters_in_use: int
    num_running: int
    num_waiting: int
    num_preemptions: int
    num_steps: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_adapter_loads: int  # host to device
    num_adapter_evictions: int
    running_adapters: list[str]  # digests
    waiting_adapters: list[str]
    resident_adapters: list[str]


FromEngine = (
    EngineReady
    | EngineFailed
    | StepOutput
    | RequestFailed
    | AdapterLoaded
    | AdapterRefused
    | EngineStats
)

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
