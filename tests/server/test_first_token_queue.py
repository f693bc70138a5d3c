"""The bounded queue: who is refused, and for how long."""

import asyncio
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIStatusError, AsyncOpenAI

from motet.server.errors import RetryLaterError
from motet.server.first_token_queue import FirstTokenQueue
from tests.server.conftest import StartServer
from tests.server.running_server import BASE, RunningServer, wait_until
from tests.server.some_keys import bearer, some_key, write_keys
from tests.server.test_rate_window import Clock


def test_it_is_bounded_and_refuses_whole_requests() -> None:
    queue = FirstTokenQueue(3, Clock())
    queue.add(["a"], "t")
    queue.add(["b", "c"], "t")
    with pytest.raises(RetryLaterError) as caught:
        queue.add(["d"], "t")
    assert caught.value.code == "overloaded"
    queue.note_output("a")
    with pytest.raises(RetryLaterError):
        queue.add(["d", "e"], "t")
    assert len(queue) == 2
    queue.add(["d"], "t")
    queue.discard("b")
    queue.discard("b")
    queue.note_output("a")  # its second
    queue.note_output("b")  # it has gone
    assert len(queue) == 2


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    queue = FirstTokenQueue(2, Clock())
    queue.add(["a", "b", "c"], None)
    with pytest.raises(RetryLaterError):
        queue.add(["d"], None)


def fill(queue: FirstTokenQueue, tenant: str | None) -> int:
    """Have as many of a tenant wait as may; how many that are."""
    for number in count():
        try:
            queue.add([f"{tenant}-{number}-{len(queue)}"], tenant)
        except RetryLaterError:
            return number
    raise AssertionError


def test_a_flood_leaves_room_for_others() -> None:
    queue = FirstTokenQueue(32, Clock())
    assert fill(queue, "flood") == 32
    assert fill(queue, "polite") == 16
    assert fill(queue, "late") == 8
    assert fill(queue, "flood") == 0
    assert queue.num_by_tenant == {"flood": 32, "polite": 16, "late": 8}


def test_floods_come_to_equal_shares() -> None:
    queue = FirstTokenQueue(100, Clock())
    names = ["a", "b", "c"]
    for name in names:
        fill(queue, name)
    oldest = [f"a-{number}-{number}" for number in range(100)]
    for request_id in oldest:  # the one that came first had most
        queue.note_output(request_id)
        for name in names:
            fill(queue, name)
    assert queue.num_by_tenant == {"a": 50, "b": 50, "c": 50}
    assert fill(queue, "new") == 25


TENANTS = st.sampled_from([None, "a", "b", "c", "d"])


def add_as_model_says(
    queue: FirstTokenQueue, max_queued: int, own: list[str], ids: list[str], tenant: str | None
) -> None:
    """Add these, and to what waits of their tenant; what happens has to be right."""
    num_before, is_alone = len(queue), len(queue) == len(own)
    try:
        queue.add(ids, tenant)
    except RetryLaterError:
        assert num_before > 0
        assert num_before + len(ids) > max_queued
        # Those who are refused would have more than is left for whoever comes next.
        assert len(own) + len(ids) > 2 * max_queued - num_before - len(ids)
        return
    own += ids
    if num_before > 0:
        assert len(own) <= max_queued
        assert len(queue) <= (max_queued if is_alone else 2 * max_queued)


@given(
    max_queued=st.integers(1, 9),
    events=st.lists(st.tuples(TENANTS, st.integers(-4, 4)), max_size=60),
)
def test_nobody_is_refused_before_the_bound_nor_taken_beyond_twice_it(
    max_queued: int, events: list[tuple[str | None, int]]
) -> None:
    """Against a model that is no more than counts: negative numbers are of those that leave."""
    queue = FirstTokenQueue(max_queued, Clock())
    model: dict[str | None, list[str]] = {}
    for index, (tenant, number) in enumerate(events):
        own = model.setdefault(tenant, [])
        for request_id in own[:-number] if number < 0 else ():
            queue.note_output(request_id)
            own.remove(request_id)
        if number > 0:
            ids = [f"{index}-{each}" for each in range(number)]
            add_as_model_says(queue, max_queued, own, ids, tenant)
        assert queue.num_by_tenant == {name: len(ids) for name, ids in model.items() if ids}
        assert len(queue) == sum(map(len, model.values()))


@given(max_queued=st.integers(1, 300))
def test_each_that_floods_leaves_half_of_the_room_to_the_next(max_queued: int) -> None:
    queue = FirstTokenQueue(max_queued, Clock())
    num_left = 2 * max_queued
    for tenant in range(12):
        num_own = fill(queue, str(tenant))
        assert num_own == num_left // 2
        num_left -= num_own


def test_the_wait_is_what_the_rate_of_first_tokens_makes_it() -> None:
    clock = Clock()
    queue = FirstTokenQueue(1000, clock)
    queue.add([str(number) for number in range(100)], "t")
    clock.now_s += 5
    for number in range(50):  # ten a second
        queue.note_output(str(number))
    assert queue.estimated_wait_s("t") == pytest.approx(5)
    clock.now_s += 25  # and then none for a while
    assert queue.estimated_wait_s("t") == pytest.approx(30)
    # After a rest, what was slow before it says nothing.
    for number in range(50, 100):
        queue.note_output(str(number))
    clock.now_s += 1000
    queue.add(["a", "b"], "t")
    clock.now_s += 1
    queue.note_output("a")
    assert queue.estimated_wait_s("t") == pytest.approx(1)


def test_the_wait_is_that_of_who_asks() -> None:
    clock = Clock()
    queue = FirstTokenQueue(1000, clock)
    queue.add([f"slow-{number}" for number in range(100)], "slow")
    queue.add([f"fast-{number}" for number in range(100)], "fast")
    clock.now_s += 5
    for number in range(10):
        queue.note_output(f"slow-{number}")  # 2 a second
    for number in range(50):
        queue.note_output(f"fast-{number}")  # 10 a second
    assert queue.estimated_wait_s("slow") == pytest.approx(45)
    assert queue.estimated_wait_s("fast") == pytest.approx(5)
    assert queue.estimated_wait_s("another") == pytest.approx(140 / 12)


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
        tenant = str(number % 2)
        if what == "output":
            queue.note_output(str(number))
        elif what == "leave":
            queue.discard(str(number))
        elif len(queue) < 5:
            queue.add([str(number)], tenant)
        for each in ("0", "1", None):
            assert 1 <= queue.estimated_wait_s(each) <= 120


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


def test_whoever_floods_is_refused_and_others_get_in(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Nothing ever runs; the one who floods has three keys of one tenant."""
    floods = [some_key(name, name, tenant="flood") for name in ("f1", "f2", "f3")]
    write_keys(tmp_path / "keys.json", *floods, some_key("polite", "polite", tenant="polite"))

    async def run(server: RunningServer) -> None:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0
        ) as client:

            async def ask(key: str) -> object:
                try:
                    await client.completions.create(
                        model=BASE, prompt="abc", extra_headers=bearer(key)
                    )
                except APIStatusError as error:
                    return error.status_code, error.code
                return None

            refused = 503, "overloaded"
            asks = {asyncio.ensure_future(ask(key)) for key in ("f1", "f2", "f3") * 4}
            while len(asks) > 4:
                done, asks = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
                assert {each.result() for each in done} == {refused}
            polite = {asyncio.ensure_future(ask("polite")) for _ in range(2)}
            queue = server.started.client.queue
            while len(queue) < 6:
                await asyncio.sleep(0.01)
            assert queue.num_by_tenant == {"flood": 4, "polite": 2}
            metrics = await asyncio.to_thread(server.get, "/metrics", headers=bearer("polite"))
            for tenant, number in queue.num_by_tenant.items():
                series = f'motet_tenant_queued_sequences{{tenant="{tenant}"}} {number:.1f}'
                assert series in metrics.text
            assert await ask("polite") == await ask("f1") == refused
            for each in asks | polite:
                each.cancel()

    path = tmp_path / "keys.json"
    with start_server(engine={"max_running": 0}, max_queued=4, keys_file=path) as server:
        asyncio.run(run(server))
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
