"""The bounded queue: what is refused, and for how long."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIStatusError, AsyncOpenAI

from motet.server.errors import RetryLaterError
from motet.server.first_token_queue import FirstTokenQueue
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.test_rate_window import Clock


def test_it_is_bounded_and_refuses_whole_requests() -> None:
    queue = FirstTokenQueue(3, Clock())
    queue.add(["a"])
    queue.add(["b", "c"])
    with pytest.raises(RetryLaterError) as caught:
        queue.add(["d"])
    assert caught.value.code == "overloaded"
    queue.note_output("a")
    with pytest.raises(RetryLaterError):
        queue.add(["d", "e"])
    assert len(queue) == 2
    queue.add(["d"])
    queue.discard("b")
    queue.discard("b")
    queue.note_output("a")  # its second
    queue.note_output("b")  # it has gone
    assert len(queue) == 2


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    queue = FirstTokenQueue(2, Clock())
    queue.add(["a", "b", "c"])
    with pytest.raises(RetryLaterError):
        queue.add(["d"])


def test_the_wait_is_what_the_rate_of_first_tokens_makes_it() -> None:
    clock = Clock()
    queue = FirstTokenQueue(1000, clock)
    queue.add([str(number) for number in range(100)])
    clock.now_s += 5
    for number in range(50):  # ten a second
        queue.note_output(str(number))
    assert queue.estimated_wait_s() == pytest.approx(5)
    clock.now_s += 25  # and then none for a while
    assert queue.estimated_wait_s() == pytest.approx(30)
    # After a rest, what was slow before it says nothing.
    for number in range(50, 100):
        queue.note_output(str(number))
    clock.now_s += 1000
    queue.add(["a", "b"])
    clock.now_s += 1
    queue.note_output("a")
    assert queue.estimated_wait_s() == pytest.approx(1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "output", "leave"]), st.integers(0, 9), st.floats(0, 50))
    )
)
def test_the_wait_is_one_that_clients_wait(events: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    queue = FirstTokenQueue(5, clock)
    for what, number, seconds in events:
        clock.now_s += seconds
        if what == "output":
            queue.note_output(str(number))
        elif what == "leave":
            queue.discard(str(number))
        elif len(queue) < 5:
            queue.add([str(number)])
        assert 1 <= queue.estimated_wait_s() <= 120
        assert len(queue) <= 5


def test_a_full_queue_says_so_and_when_to_come_back(start_server: StartServer) -> None:
    """Twelve come at once, and none of them ever runs."""

    async def run(server: RunningServer) -> list[BaseException | None]:
        url = f"{server.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asks = {
                asyncio.ensure_future(client.completions.create(model=BASE, prompt="abc"))
                for _ in range(12)
            }
            refused: list[BaseException | None] = []
            while len(refused) < 8:
                done, asks = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
                refused += [each.exception() for each in done]
            assert len(server.started.client.queue) == len(asks) == 4
            for ask in asks:
                ask.cancel()
        return refused

    with start_server(engine={"max_running": 0}, max_queued=4) as server:
        for error in asyncio.run(run(server)):
            assert isinstance(error, APIStatusError)
            assert error.status_code == 503
            assert (error.code, error.type) == ("overloaded", "server_error")
            headers = error.response.headers
            assert 1 <= int(headers["retry-after"]) <= 120
            assert headers["x-should-retry"] == "true"
        # What has left has made room.
        wait_until(lambda: len(server.started.client.queue) == 0)


def test_a_full_queue_does_not_make_a_server_unready(start_server: StartServer) -> None:
    """Its load balancer would send the waiting clients to servers that are as full."""
    with start_server(engine={"step_s": 0.05, "max_running": 0}, max_queued=1) as server:
        body = {"model": BASE, "prompt": "abc"}
        with pytest.raises(Exception, match="timed out"):
            server.post("/v1/completions", body, timeout=0.3)
        wait_until(lambda: len(server.started.client.queue) == 0)  # it was left
        assert server.is_ready()


def test_a_dead_engine_leaves_no_queue(start_server: StartServer) -> None:
    with start_server(engine={"max_running": 0}, max_queued=3) as server:

        async def run() -> None:
            url = f"{server.url}/v1"
            async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                asks = [
                    asyncio.ensure_future(client.completions.create(model=BASE, prompt="abc"))
                    for _ in range(3)
                ]
                while len(server.started.client.queue) < 3:
                    await asyncio.sleep(0.01)
                assert server.is_ready()
                server.kill_engine()
                answers = await asyncio.gather(*asks, return_exceptions=True)
            assert all(isinstance(each, APIStatusError) for each in answers)

        asyncio.run(run())
        assert len(server.started.client.queue) == 0
