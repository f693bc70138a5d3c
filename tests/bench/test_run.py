"""A workload is played against a server over HTTP, and everything about it is written down."""

import asyncio
import os
import resource
import signal
import threading
from typing import Any

import pytest

from motet.bench.file_limit import allow_connections
from motet.bench.journal import Journal
from motet.bench.record import Run, Slo
from motet.bench.run import RunOptions, play_workload, run_workload
from motet.bench.self_check import SelfCheck
from motet.bench.server import ServerError
from motet.bench.target import PromptForm, Target
from motet.bench.workload import Workload
from tests.bench.scripted_server import Body, Script, ScriptedServer, running, send_json, whole
from tests.bench.work import work, workload_of

METRICS = "motet_running_requests 2.0\n"


async def refuse(writer: Any, body: Body) -> None:
    error = {"error": {"code": "overloaded", "message": "too many"}}
    await send_json(writer, error, "503 Service Unavailable")


def slow(seconds: float) -> Script:
    async def answer(writer: Any, body: Body) -> None:
        await asyncio.sleep(seconds)
        await whole(writer, body)

    return answer


def play(
    server: ScriptedServer, workload: Workload, journal: Journal | None = None, **options: Any
) -> Run:
    target = Target(url=f"{server.url}/v1", **options.pop("target", {}))
    return run_workload(workload, target, RunOptions(label="l", **options), journal)


def test_a_run_tells_what_happened() -> None:
    # Not in the order of their ends: the first is the slowest.
    scripts = {"slow": slow(0.4), "quick": whole, "full": refuse}
    requests = [
        work(0, "slow"),
        work(1, "quick", tenant="t"),
        work(2, "full"),
        work(3, None, arrival_s=0.2),
    ]
    with running(ScriptedServer(scripts={**scripts, "base": whole}, metrics=METRICS)) as server:
        run = play(server, workload_of(requests), sample_interval_s=0.1, slo=Slo(ttft_s=2.0))
    assert [record.index for record in run.requests] == [0, 1, 2, 3]
    assert [record.model for record in run.requests] == ["slow", "quick", "full", "base"]
    assert [record.error for record in run.requests] == [None, None, "overloaded", None]
    assert [record.sent_s for record in run.requests] == [0, 0, 0, 0.2]
    assert run.requests[1].tenant == "t"
    assert run.requests[0].ended_s > run.requests[1].ended_s
    assert {sample.num_running for sample in run.samples} == {2.0}
    info = run.info
    assert (info.workload, info.seed, info.label, info.is_open_loop) == ("made-up", 1, "l", True)
    assert info.target == f"{server.url}/v1"
    assert info.slo == Slo(ttft_s=2.0)
    assert info.wall_s >= run.requests[0].ended_s
    assert info.settings["interrupted"] is False
    assert info.settings["messages"] == {"overloaded": "HTTP 503: too many"}
    assert "ranks" not in info.settings["parameters"]
    assert info.environment["server"] == {"version": None, "models": 5}


def test_prompts_are_new_in_each_run_unless_they_are_asked_for_again() -> None:
    workload = workload_of([work(0, "m", num_prompt_tokens=30)])
    with running(ScriptedServer(scripts={"m": whole})) as server:
        seeds = [
            play(server, workload, **fields).info.settings["prompt_seed"]
            for fields in ({}, {}, {"prompt_seed": 5}, {"prompt_seed": 5})
        ]
    prompts = [body["prompt"] for body in server.bodies]
    assert len(set(seeds)) == 3
    assert len(set(prompts)) == 3
    assert prompts[2] == prompts[3]
    assert len(prompts[0].split()) == 30


@pytest.mark.parametrize("form", list(PromptForm))
def test_forms_of_prompts(form: PromptForm) -> None:
    workload = workload_of([work(0, "m", num_prompt_tokens=30)])
    with running(ScriptedServer(scripts={"m": whole})) as server:
        run = play(server, workload, target={"prompts": form})
    [body] = server.bodies
    assert run.requests[0].is_finished
    match form:
        case PromptForm.TOKENS:
            assert len(body["prompt"]) == 30
            assert set(body["prompt"]) <= {7, 8, 9}
        case PromptForm.REPEATED:
            assert body["prompt"] == "Hello " * 30
        case PromptForm.TEXT:
            assert "Hello" not in body["prompt"]


def test_warm_up_requests_are_not_recorded_and_have_other_prompts() -> None:
    workload = workload_of([work(index, "m", num_prompt_tokens=20) for index in range(3)])
    with running(ScriptedServer(scripts={"m": whole})) as server:
        run = play(server, workload, num_warm_up=2)
    assert len(run.requests) == 3
    prompts = [body["prompt"] for body in server.bodies]
    assert len(set(prompts)) == len(prompts) == 5


def test_a_warm_up_that_fails_is_the_end() -> None:
    workload = workload_of([work(0, "m")])
    with (
        running(ScriptedServer(scripts={"m": refuse})) as server,
        pytest.raises(ServerError, match="overloaded: HTTP 503: too many"),
    ):
        play(server, workload, num_warm_up=1)
    assert len(server.bodies) == 1


def test_a_closed_loop() -> None:
    workload = workload_of([work(index, "m", arrival_s=1000.0) for index in range(6)])
    with running(ScriptedServer(scripts={"m": slow(0.05)})) as server:
        run = play(server, workload, num_clients=2)
    assert run.info.is_open_loop is False
    times = sorted(
        (time_s, change)
        for record in run.requests
        for time_s, change in ((record.sent_s, 1), (record.ended_s, -1))
    )
    on = 0
    for _, change in times:
        on += change
        assert on <= 2


def test_in_an_open_loop_a_server_that_answers_nothing_is_sent_everything() -> None:
    workload = workload_of([work(index, "m", arrival_s=index * 0.01) for index in range(40)])
    with running(ScriptedServer(scripts={"m": slow(3600)})) as server:
        run = play(server, workload, limit_s=1.5)
    assert len(server.bodies) == 40
    assert {record.error for record in run.requests} == {"timeout"}


def test_ctrl_c_ends_a_run_with_what_has_come() -> None:
    requests = [work(0, "quick"), work(1, "slow"), work(2, "quick", arrival_s=3600.0)]
    scripts = {"quick": whole, "slow": slow(3600)}
    journal = Journal()
    before = signal.getsignal(signal.SIGINT)

    def interrupt_when_one_has_ended() -> None:
        while not (journal.num_finished == 1 and len(server.bodies) == 2):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with running(ScriptedServer(scripts=scripts)) as server:
        thread = threading.Thread(target=interrupt_when_one_has_ended)
        thread.start()
        run = play(server, workload_of(requests), journal)
        thread.join()
    assert [(record.index, record.error) for record in run.requests] == [
        (0, None),
        (1, "interrupted"),
    ]
    assert run.info.settings["interrupted"] is True
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_within_an_event_loop_stops_when_it_is_told_to() -> None:
    async def stopped() -> Run:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, stop.set)
        target = Target(url=server.url)
        workload = workload_of([work(0, "m")])
        return await play_workload(workload, target, RunOptions(label="l"), Journal(), stop)

    with running(ScriptedServer(scripts={"m": slow(3600)})) as server:
        run = asyncio.run(stopped())
    assert run.info.settings["interrupted"] is True


@pytest.mark.parametrize(
    ("url", "complaint"), [("http://127.0.0.1:9", "Is a server running"), (None, "404")]
)
def test_a_server_that_is_none(url: str | None, complaint: str) -> None:
    with running(ScriptedServer(scripts={})) as server:
        target = Target(url=url or f"{server.url}/elsewhere")
        with pytest.raises(ServerError, match=complaint):
            run_workload(workload_of([]), target, RunOptions(label="l"))


def test_adapters_that_nothing_is_served_for() -> None:
    with (
        running(ScriptedServer(scripts={})) as server,
        pytest.raises(ValueError, match="lists none beside 'base'"),
    ):
        play(server, workload_of([work(0, "a")]))


@pytest.mark.parametrize(
    "fields",
    [
        {"slo": Slo(ttft_s=0.0)},
        {"slo": Slo(ttft_s=1.0, itl_s=-1.0)},
        {"limit_s": 0.0},
        {"sample_interval_s": float("inf")},
    ],
)
def test_times_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RunOptions(label="l", **fields)


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = limits[1]
    assert hard > 1000
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        assert allow_connections(100) >= 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        assert allow_connections(500) == 500
        assert allow_connections(10 * hard) < hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_client_that_was_late_is_not_trusted() -> None:
    check = SelfCheck()
    assert check.is_trusted
    check.send_lags_s = [0.001] * 990 + [0.5] * 10
    assert check.is_trusted
    check.send_lags_s.append(0.5)
    assert not check.is_trusted
    check = SelfCheck()
    check.loop_lags_s = [0.2]
    assert check.as_json()["kept_up"] is False


@pytest.mark.parametrize("label", ["\udcff", "a\nb", "\x1b[31m"])
def test_a_label_that_could_not_be_written_or_shown_is_refused_at_once(label: str) -> None:
    with pytest.raises(ValueError, match="printable text"):
        RunOptions(label=label)
    with pytest.raises(ValueError, match="printable text"):
        Target(url="http://server", template=label)
