"""Compiling grammars in a process that can be killed: who waits, what is remembered."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from motet.core.errors import MotetError
from motet.server import grammar_service
from motet.server.errors import OverloadedError
from motet.server.grammar_service import GrammarService
from motet.server.grammar_worker import CheckEndedError, CheckFailedError, GrammarWorker
from motet.server.refusals import RefusalReason
from motet.server.structured import Constraint

HANGS = '{"type": "integer", "multipleOf": 99999989}'


def regex(text: str) -> Constraint:
    return Constraint("regex", text, "structured_outputs.regex")


class FakeWorker:
    """Compiles nothing, when it is let; the text decides what comes of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = asyncio.Event()

    async def compile(self, kind: str, text: str) -> str:
        self.asked.append(text)
        await self.go_on.wait()
        if text == "bad":
            raise CheckFailedError("it is bad. " + "x" * 1000)
        if text == "slow":
            raise CheckEndedError("it is slow")
        return f"grammar of {text}"


def with_fake(test: Callable[[GrammarService, FakeWorker], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        worker = FakeWorker()
        await test(GrammarService(cast(GrammarWorker, worker)), worker)

    asyncio.run(run())


def test_each_constraint_is_compiled_once() -> None:
    async def test(service: GrammarService, worker: FakeWorker) -> None:
        asking = [asyncio.create_task(service.compile(regex("a"))) for _ in range(10)]
        await asyncio.sleep(0)
        worker.go_on.set()
        assert set(await asyncio.gather(*asking)) == {"grammar of a"}
        assert await service.compile(regex("a")) == "grammar of a"
        assert worker.asked == ["a"]
        await service.compile(Constraint("choice", "a", "p"))  # of the same text, and another kind
        assert worker.asked == ["a", "a"]

    with_fake(test)


def test_refusals_are_remembered_and_name_the_field_of_the_request() -> None:
    async def test(service: GrammarService, worker: FakeWorker) -> None:
        worker.go_on.set()
        for param in ("one", "other"):
            with pytest.raises(MotetError) as caught:
                await service.compile(Constraint("regex", "bad", param))
            assert (caught.value.code, caught.value.param) == ("invalid_value", param)
            assert caught.value.message.startswith(f"'{param}' cannot be used: it is bad")
            assert len(caught.value.message) < 500
        assert worker.asked == ["bad"]

    with_fake(test)


def test_what_took_too_long_is_tried_again() -> None:
    async def test(service: GrammarService, worker: FakeWorker) -> None:
        worker.go_on.set()
        for _ in range(2):
            with pytest.raises(MotetError, match="it is slow"):
                await service.compile(regex("slow"))
        assert worker.asked == ["slow", "slow"]

    with_fake(test)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_service, "_MAX_REMEMBERED", 2)

    async def test(service: GrammarService, worker: FakeWorker) -> None:
        worker.go_on.set()
        for each in "abacab":
            await service.compile(regex(each))
        assert worker.asked == ["a", "b", "c", "b"]

    with_fake(test)


def test_so_many_may_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_service, "MAX_WAITING", 3)

    async def test(service: GrammarService, worker: FakeWorker) -> None:
        asking = []
        for index in range(6):  # one is compiled, three wait
            asking.append(asyncio.create_task(service.compile(regex(str(index)))))
            for _ in range(5):
                await asyncio.sleep(0)
        refused = [task for task in asking if task.done()]
        assert len(refused) == 2
        for task in refused:
            error = task.exception()
            assert isinstance(error, OverloadedError)
            assert error.reason is RefusalReason.GRAMMARS
            assert error.headers["Retry-After"] == "5"
        worker.go_on.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(isinstance(each, str) for each in results) == 4
        assert await service.compile(regex("5")) == "grammar of 5", "it was not its fault"

    with_fake(test)


def test_a_tenant_waits_behind_its_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_service, "MAX_WAITING", 3)

    async def test(service: GrammarService, worker: FakeWorker) -> None:
        flood = [
            asyncio.create_task(service.compile(regex(each), "a")) for each in ("0", "1", "2", "x")
        ]
        await asyncio.sleep(0.01)
        other = asyncio.create_task(service.compile(regex("x"), "b"))
        await asyncio.sleep(0.01)
        worker.go_on.set()
        assert await other == "grammar of x"
        await asyncio.gather(*flood)
        assert sorted(worker.asked) == ["0", "1", "2", "x"], "each was compiled once"
        assert worker.asked.index("x") <= 2, "and not last, as the flood's own"

    with_fake(test)


def test_none_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_service, "MAX_WAIT_S", 0.02)

    async def test(service: GrammarService, worker: FakeWorker) -> None:
        first = asyncio.create_task(service.compile(regex("first")))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await service.compile(regex("second"))
        worker.go_on.set()
        assert await first == "grammar of first"

    with_fake(test)


def test_one_who_leaves_ends_it_for_nobody_else() -> None:
    async def test(service: GrammarService, worker: FakeWorker) -> None:
        leaving, staying = (asyncio.create_task(service.compile(regex("a"))) for _ in range(2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        worker.go_on.set()
        assert await staying == "grammar of a"

    with_fake(test)


def with_worker(
    model_dir: Path,
    test: Callable[[GrammarWorker], Coroutine[Any, Any, None]],
    *,
    file: str = "tokenizer.json",
    time_limit_s: float = 20.0,
) -> None:
    async def run() -> None:
        worker = GrammarWorker(model_dir / file, 259, (257,), time_limit_s=time_limit_s)
        try:
            await test(worker)
        finally:
            await worker.close()

    asyncio.run(run())


def pid_of(worker: GrammarWorker) -> int:
    assert worker._process is not None
    return worker._process.pid


def test_a_grammar_that_takes_too_long_is_killed_and_the_next_one_is_compiled(
    model_dir: Path,
) -> None:
    async def test(worker: GrammarWorker) -> None:
        await worker.compile("regex", "a")
        pid = pid_of(worker)
        with pytest.raises(CheckEndedError, match=r"longer than 0\.5 s"):
            await worker.compile("json_schema", HANGS)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await worker.compile("regex", "b")
        assert pid_of(worker) != pid

    with_worker(model_dir, test, time_limit_s=0.5)


def test_a_process_that_dies_is_started_again(model_dir: Path) -> None:
    async def test(worker: GrammarWorker) -> None:
        await worker.compile("regex", "a")
        os.kill(pid_of(worker), signal.SIGKILL)
        # It may be noticed at once, or only by the one who asks next.
        for _ in range(2):
            try:
                assert await worker.compile("regex", "b")
                return
            except CheckEndedError:
                continue
        raise AssertionError("it was not started again")

    with_worker(model_dir, test)


def test_a_grammar_that_overflows_the_stack_ends_the_process_alone(model_dir: Path) -> None:
    rules = "".join(f'r{i}: r{i + 1} "x"\n' for i in range(3000))

    async def test(worker: GrammarWorker) -> None:
        with pytest.raises(CheckFailedError, match="too complex"):
            await worker.compile("grammar", f'start: r0\n{rules}r3000: "a"')
        assert await worker.compile("regex", "b")

    with_worker(model_dir, test)


def test_a_cancelled_question_does_not_mix_up_answers(model_dir: Path) -> None:
    async def test(worker: GrammarWorker) -> None:
        await worker.compile("regex", "a")
        asking = asyncio.create_task(worker.compile("json_schema", HANGS))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert "only-b" in await worker.compile("regex", "only-b")

    with_worker(model_dir, test)


def test_a_tokenizer_that_cannot_be_used_is_said_each_time(model_dir: Path) -> None:
    async def test(worker: GrammarWorker) -> None:
        for _ in range(2):
            with pytest.raises(CheckFailedError, match=r"tokenizer\.json cannot be used"):
                await worker.compile("regex", "a")

    with_worker(model_dir, test, file="generation_config.json")


def test_it_ends_with_its_standard_input(model_dir: Path) -> None:
    """So it does not outlive an API process that was killed."""

    async def test(worker: GrammarWorker) -> None:
        await worker.compile("regex", "a")
        process = worker._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0

    with_worker(model_dir, test)
