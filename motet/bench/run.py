"""Plays a workload against a server: from its names and prompts to a `Run`.

Owns: the order of things in a run, what is written down of its setting, and its end at a signal.
Does not know: how it is shown (`progress.py`) and kept (`results.py`).
"""

import asyncio
import contextlib
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from motet.bench.asking import Asking
from motet.bench.environment import describe_client
from motet.bench.file_limit import allow_connections
from motet.bench.journal import Journal
from motet.bench.naming import model_names
from motet.bench.prompts import PromptWriter
from motet.bench.record import Run, RunInfo, Slo
from motet.bench.self_check import MAX_LATENESS_S
from motet.bench.server import ServedModels, Server, ServerError
from motet.bench.session import Session
from motet.bench.target import PromptForm, Target
from motet.bench.workload import Workload, WorkRequest

_NUM_WARM_UP_CLIENTS = 8

# Words enough for all that prompts are made of to be among them.
_VOCABULARY = WorkRequest(
    index=0, arrival_s=0, adapter=None, num_prompt_tokens=4096, num_output_tokens=0, stream=0
)


def _fresh_seed() -> int:
    return secrets.randbelow(1 << 32)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a workload is played.

    Attributes:
        label: what a reader of the report calls the run.
        slo: what requests are promised.
        num_clients: of a closed loop; None is an open one.
        num_warm_up: so many requests, those that the workload begins with, go ahead with other
            prompts, and are not recorded.
        limit_s: the longest that a request may take.
        sample_interval_s: between looks at the server's metrics.
        prompt_seed: of the prompts' words. A server that is asked the same ones again has them in
            its prefix cache, so by default they are new ones in each run.
        settings: more for the reader of the results; plain JSON values.

    Raises:
        ValueError: a time that is not above 0, or a label that cannot be shown.
    """

    label: str
    slo: Slo = field(default_factory=Slo)
    num_clients: int | None = None
    num_warm_up: int = 0
    limit_s: float = 600.0
    sample_interval_s: float = 1.0
    prompt_seed: int = field(default_factory=_fresh_seed)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.label.isprintable():
            # Bytes that are no text could not be written, after all has been played.
            raise ValueError(f"The label is {self.label!r}: expected printable text.")
        times_s = {
            "The SLO of the first token": self.slo.ttft_s,
            "The SLO of the others": self.slo.itl_s,
            "A request's limit": self.limit_s,
            "The time between samples": self.sample_interval_s,
        }
        for what, time_s in times_s.items():
            if time_s is not None and not 0 < time_s < float("inf"):
                raise ValueError(f"{what} is {time_s:g} s: expected a time above 0.")


def run_workload(
    workload: Workload, target: Target, options: RunOptions, journal: Journal | None = None
) -> Run:
    """Play a workload to its end, or until Ctrl-C; then what has come is returned.

    Args:
        journal: is kept meanwhile, for another thread to look at.

    Raises:
        ServerError: the server does not answer, or lacks what the run needs; nothing was played.
        ValueError: workload, target and options do not go together.
    """
    with asyncio.Runner() as runner:
        stop = asyncio.Event()
        with _stopped_by_ctrl_c(runner.get_loop(), stop):
            return runner.run(play_workload(workload, target, options, journal or Journal(), stop))


async def play_workload(
    workload: Workload, target: Target, options: RunOptions, journal: Journal, stop: asyncio.Event
) -> Run:
    """`run_workload` within an event loop, until `stop` is set. Raises as it does."""
    num_connections = _connections(workload, options)
    async with httpx2.AsyncClient(trust_env=False) as http:
        server = Server(http, target)
        served = await server.models()
        asking = await _asking(workload, target, server, served, options.prompt_seed)
        environment = await asyncio.to_thread(describe_client)
        environment["server"] = {"version": await server.version(), "models": len(served.names)}
        await _warm_up(workload, asking, options, http, stop)
        session = _session(asking, journal, options, http)
        played = await session.play(workload.requests, options.num_clients, stop)
    info = RunInfo(
        label=options.label,
        target=target.url,
        workload=workload.name,
        seed=workload.seed,
        is_open_loop=options.num_clients is None,
        slo=options.slo,
        started_at=played.started_at.isoformat(timespec="seconds"),
        wall_s=played.wall_s,
        settings={
            **_settings(workload, target, options),
            "models": len(set(asking.models.values())),
            "interrupted": not played.is_whole,
            "client": session.check.as_json(),
            "messages": session.client.messages,
            "warnings": _warnings(session, workload, num_connections),
        },
        environment=environment,
    )
    records = sorted(journal.records, key=lambda record: record.index)
    return Run(info=info, requests=records, samples=session.watch.samples)


def _connections(workload: Workload, options: RunOptions) -> int:
    """How many there can be. Raises ValueError for fewer than the clients of a closed loop."""
    num_wanted = len(workload.requests) if options.num_clients is None else options.num_clients
    num_connections = allow_connections(num_wanted)
    if options.num_clients is not None and num_connections < options.num_clients:
        raise ValueError(
            f"This process may open {num_connections} connections, fewer than the "
            f"{options.num_clients} clients asked for: raise its limit of open files "
            "(ulimit -n), or take fewer."
        )
    return num_connections


async def _asking(
    workload: Workload, target: Target, server: Server, served: ServedModels, prompt_seed: int
) -> Asking:
    writer = PromptWriter(prompt_seed)
    token_ids: list[int] = []
    if target.prompts is PromptForm.TOKENS:
        token_ids = sorted(set(await server.tokenize(served.base, writer.text(_VOCABULARY))))
    return Asking(
        target=target,
        models=model_names(workload.adapters, served.names, served.base, target.template),
        writer=writer,
        token_ids=token_ids,
    )


def _session(
    asking: Asking, journal: Journal, options: RunOptions, http: httpx2.AsyncClient
) -> Session:
    return Session(
        asking,
        journal,
        http,
        limit_s=options.limit_s,
        sample_interval_s=options.sample_interval_s,
    )


async def _warm_up(
    workload: Workload,
    asking: Asking,
    options: RunOptions,
    http: httpx2.AsyncClient,
    stop: asyncio.Event,
) -> None:
    """Play the first requests with other prompts. Raises ServerError if each of them failed."""
    requests = workload.requests[: options.num_warm_up]
    if not requests:
        return
    journal = Journal()
    with_other_prompts = replace(asking, writer=PromptWriter(options.prompt_seed + 1))
    session = _session(with_other_prompts, journal, options, http)
    await session.play(requests, _NUM_WARM_UP_CLIENTS, stop)
    if not journal.num_finished and not stop.is_set():
        reasons = "; ".join(f"{code}: {text}" for code, text in session.client.messages.items())
        raise ServerError(f"All {len(requests)} warm-up requests failed. {reasons}")


def _settings(workload: Workload, target: Target, options: RunOptions) -> dict[str, Any]:
    # The ranks of perhaps thousands of adapters are in the workload's file.
    parameters = {name: each for name, each in workload.parameters.items() if name != "ranks"}
    return {
        **options.settings,
        "parameters": parameters,
        "endpoint": target.endpoint.value,
        "prompts": target.prompts.value,
        "prompt_seed": options.prompt_seed,
        "exact_length": target.exact_length,
        "model_template": target.template,
        "clients": options.num_clients,
        "warm_up_requests": options.num_warm_up,
        "request_limit_s": options.limit_s,
        "sample_interval_s": options.sample_interval_s,
    }


def _warnings(session: Session, workload: Workload, num_connections: int) -> list[str]:
    """What a reader of the figures has to know."""
    found = []
    if not session.check.is_trusted:
        found.append(
            f"The client did not keep up: it was later than {MAX_LATENESS_S * 1000:.0f} ms at the "
            "99th percentile, which latencies include. Run it on other cores, or with less load."
        )
    if num_connections < len(workload.requests) and "ConnectError" in session.client.messages:
        found.append(
            f"Connections failed, and this process may open {num_connections} at a time: raise "
            "its limit of open files (ulimit -n)."
        )
    if session.watch.problem is not None:
        found.append(f"No figures from the server: {session.watch.problem}.")
    return found


@contextlib.contextmanager
def _stopped_by_ctrl_c(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> Iterator[None]:
    """Have the first Ctrl-C set `stop`, and the second end the program as it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not for other threads
        return

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
