"""What came of a workload: one record for each request, samples of the server, and the setting.

Owns: the records and their files in a results folder.
Does not know: how they were got (a client over HTTP, a simulation), nor what is made of them.

    run.json        the setting: `RunInfo`
    workload.jsonl  what was asked for (`workload.py`)
    requests.jsonl  a `RequestRecord` a line, in the order of the workload
    samples.jsonl   a `Sample` a line, in the order of time; empty for a server that does not tell

All times are seconds from the start of the run.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

RUN_FILE = "run.json"
WORKLOAD_FILE = "workload.jsonl"
REQUESTS_FILE = "requests.jsonl"
SAMPLES_FILE = "samples.jsonl"

_REFUSING_STATUSES = (429, 503)

StructT = TypeVar("StructT", bound=msgspec.Struct)


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request, and what its client saw of it.

    Attributes:
        index: of the request in the workload.
        adapter: as the workload calls it; None is the base model.
        model: the name that was asked for.
        tenant: who sent it.
        sent_s: when it was sent; in an open loop that is its arrival.
        piece_times_s: when each piece of the answer came. A piece is a token or a few.
        ended_s: when the answer ended, or the error came.
        num_prompt_tokens, num_cached_tokens, num_output_tokens: by the server's own count; of the
            prompt, those that came from a prefix cache are cached.
        status: of the HTTP answer; None if there was none.
        error: a code or a sentence; None if all tokens came.
        retry_after_s: when a refused client was told to come again.
    """

    index: int
    adapter: str | None
    model: str
    tenant: str | None = None
    sent_s: float
    piece_times_s: Sequence[float] = ()
    ended_s: float
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    status: int | None = 200
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether all of the answer came."""
        return self.error is None

    @property
    def is_refused(self) -> bool:
        """Whether the server said, at once or later, that it has no room or no turn for it."""
        return not self.is_finished and self.status in _REFUSING_STATUSES

    @property
    def ttft_s(self) -> float | None:
        """From sending to the first piece; None if none came."""
        return self.piece_times_s[0] - self.sent_s if self.piece_times_s else None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What the server said of itself at one moment; None is what it does not tell.

    Attributes:
        num_resident_adapters: on the device.
        kv_share, adapter_share, cached_share, free_share: of the memory pool: KV of running
            requests, adapters in use, what is kept in case it is asked for again, and the rest.
    """

    at_s: float
    num_running: float | None = None
    num_waiting: float | None = None
    num_resident_adapters: float | None = None
    kv_share: float | None = None
    adapter_share: float | None = None
    cached_share: float | None = None
    free_share: float | None = None


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is promised. S-LoRA's evaluation has 6 s for the first token alone.

    Attributes:
        ttft_s: from sending to the first token.
        itl_s: the mean gap between the tokens after it; None if nothing is promised.
    """

    ttft_s: float = 6.0
    itl_s: float | None = None


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The setting of a run.

    Attributes:
        label: what a reader of the report calls it.
        target: the server's base URL, or what was simulated.
        workload: name of the workload.
        seed: of the workload.
        is_open_loop: whether requests were sent at their times, whatever became of the others.
        slo: what requests were promised.
        started_at: in ISO 8601.
        wall_s: how long it took.
        settings: everything else that a reader may want to know; plain JSON values.
        environment: the machine and versions, likewise.
    """

    label: str
    target: str
    workload: str
    seed: int
    is_open_loop: bool
    slo: Slo
    started_at: str
    wall_s: float
    settings: dict[str, Any]
    environment: dict[str, Any]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    info: RunInfo
    requests: Sequence[RequestRecord]
    samples: Sequence[Sample]


def write_run(folder: Path, run: Run) -> None:
    """Write all but the workload into a folder that exists."""
    text = msgspec.json.format(msgspec.json.encode(run.info), indent=2)
    (folder / RUN_FILE).write_bytes(text + b"\n")
    (folder / REQUESTS_FILE).write_bytes(_lines(run.requests))
    (folder / SAMPLES_FILE).write_bytes(_lines(run.samples))


def read_run(folder: Path) -> Run:
    """Read what `write_run` has written.

    Raises:
        ValueError: a file is not what it should be.
        OSError: one of them cannot be read.
    """
    try:
        info = msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=RunInfo)
    except msgspec.DecodeError as error:
        raise ValueError(f"{folder / RUN_FILE} does not describe a run: {error}.") from error
    return Run(
        info=info,
        requests=_read_lines(folder / REQUESTS_FILE, RequestRecord),
        samples=_read_lines(folder / SAMPLES_FILE, Sample),
    )


def _lines(records: Iterable[msgspec.Struct]) -> bytes:
    encoder = msgspec.json.Encoder()
    return b"".join(encoder.encode(record) + b"\n" for record in records)


def _read_lines(path: Path, kind: type[StructT]) -> list[StructT]:
    decoder = msgspec.json.Decoder(kind)
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            records.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from error
    return records
