"""What a workload is: who asks for how much, and when.

Owns: the record of a request to be made, and the file that a workload is written to.
Does not know: how workloads are drawn, servers, nor what comes of the requests.

A workload holds no text. A prompt is told by where its tokens come from: the first of them from a
stream that the requests of one `prefix` share, the others from a stream of their own. Whoever makes
prompts of it has to give equal streams equal tokens, and different ones different tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

FORMAT_VERSION = 1

LONGEST = 1 << 20  # tokens of one prompt or answer
_Place = Annotated[int, Meta(ge=0)]
_NumTokens = Annotated[int, Meta(ge=1, le=LONGEST)]


class WorkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Limits hold for what is read from a file; who draws a workload keeps them.

    Attributes:
        index: its place in the workload, from 0 on.
        arrival_s: when it is sent, from the start of the workload.
        adapter: which adapter it asks for, as the workload calls it; None is the base model.
        num_prompt_tokens: tokens of its prompt, those of the prefix among them.
        num_output_tokens: tokens that it generates, exactly.
        stream: where the tokens of its prompt after the prefix come from. Requests of one stream
            have prompts of which each is the beginning of the longer ones.
        prefix: where the first tokens of its prompt come from; None if they are of its own stream.
        num_prefix_tokens: how many of these.
        tenant: who sends it; None if it does not matter.
        after: the request that must have ended before this one is sent, if it has not by then.
    """

    index: _Place
    arrival_s: Annotated[float, Meta(ge=0)]
    adapter: str | None
    num_prompt_tokens: _NumTokens
    num_output_tokens: _NumTokens
    stream: int
    prefix: str | None = None
    num_prefix_tokens: Annotated[int, Meta(ge=0)] = 0
    tenant: str | None = None
    after: _Place | None = None


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in the order of their arrival, and what they were drawn from.

    Attributes:
        name: of the kind of workload.
        seed: equal parameters and seeds give equal requests.
        parameters: all others; plain JSON values.
    """

    name: str
    seed: int
    parameters: dict[str, Any]
    requests: Sequence[WorkRequest]

    @property
    def adapters(self) -> list[str]:
        """All that are asked for, by name, in the order in which they first are."""
        named = (request.adapter for request in self.requests)
        return [adapter for adapter in dict.fromkeys(named) if adapter is not None]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a workload's file."""

    format_version: int
    name: str
    seed: int
    parameters: dict[str, Any]


def encode_workload(workload: Workload) -> bytes:
    """A workload as JSON lines: what it is, then each request. Equal workloads give equal bytes."""
    head = _Head(
        format_version=FORMAT_VERSION,
        name=workload.name,
        seed=workload.seed,
        parameters=workload.parameters,
    )
    encoder = msgspec.json.Encoder(order="deterministic")
    return b"".join(encoder.encode(each) + b"\n" for each in (head, *workload.requests))


def read_workload(path: Path) -> Workload:
    """Read what `encode_workload` has written.

    Raises:
        ValueError: it is not such a file, with the line at fault.
        OSError: it cannot be read.
    """
    lines = path.read_bytes().splitlines()
    try:
        head = msgspec.json.decode(lines[0] if lines else b"", type=_Head)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no workload: its first line is wrong: {error}.") from error
    if head.format_version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format {head.format_version}; this version reads {FORMAT_VERSION}."
        )
    decoder = msgspec.json.Decoder(WorkRequest)
    requests: list[WorkRequest] = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            request = decoder.decode(line)
            _check_follows(request, requests)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from error
        requests.append(request)
    if not requests:
        raise ValueError(f"{path} has no requests: expected a line for each after the first.")
    return Workload(name=head.name, seed=head.seed, parameters=head.parameters, requests=requests)


def _check_follows(request: WorkRequest, before: Sequence[WorkRequest]) -> None:
    """Raise ValueError unless a request can come after these, as the next."""
    if request.index != len(before):
        raise ValueError(f"index is {request.index}: expected {len(before)}, its place")
    if before and request.arrival_s < before[-1].arrival_s:
        raise ValueError(f"arrival_s is {request.arrival_s:g}, before that of the last request")
    if request.after is not None and request.after >= request.index:
        raise ValueError(f"after is {request.after}: expected a request before it")
    if request.num_prefix_tokens > request.num_prompt_tokens:
        raise ValueError(
            f"num_prefix_tokens is {request.num_prefix_tokens}: expected at most the "
            f"{request.num_prompt_tokens} of the whole prompt"
        )
