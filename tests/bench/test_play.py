"""Open loop, closed loop, and requests that come after others, in a made-up server's time."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.bench.play import Player
from motet.bench.workload import WorkRequest
from tests.bench.work import work


class Stage:
    """Answers each request when it is told to, and notes who is on."""

    def __init__(self) -> None:
        self.due_s: dict[int, float] = {}
        self.on: list[int] = []
        self.most_on = 0
        self.ends: dict[int, asyncio.Event] = {}
        self.now_s = 0.0

    async def send(self, request: WorkRequest, due_s: float) -> None:
        self.due_s[request.index] = due_s
        self.on.append(request.index)
        self.most_on = max(self.most_on, len(self.on))
        await self.ends.setdefault(request.index, asyncio.Event()).wait()
        self.on.remove(request.index)

    def player(self, requests: Sequence[WorkRequest]) -> Player:
        return Player(requests, self.send, lambda: self.now_s)

    def end(self, index: int) -> None:
        self.ends.setdefault(index, asyncio.Event()).set()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_in_an_open_loop_nobody_waits_for_an_answer() -> None:
    async def play() -> None:
        stage = Stage()
        requests = [work(index, arrival_s=index * 0.002) for index in range(20)]
        stage.now_s = 1.0  # all are due
        playing = asyncio.create_task(stage.player(requests).play_open())
        await settle()
        while len(stage.on) < 20:
            await asyncio.sleep(0)
        # They are counted from when they were due, however late the client was.
        assert stage.due_s == {index: index * 0.002 for index in range(20)}
        for index in range(20):
            stage.end(index)
        await playing

    asyncio.run(play())


def test_a_request_waits_for_the_one_that_it_comes_after() -> None:
    async def play() -> None:
        stage = Stage()
        requests = [work(0), work(1, after=0), work(2), work(3, after=1)]
        playing = asyncio.create_task(stage.player(requests).play_open())
        await settle()
        assert stage.on == [0, 2]
        stage.now_s = 5.0
        stage.end(0)
        await settle()
        assert stage.on == [2, 1]
        assert stage.due_s[1] == 5.0
        for index in (1, 2, 3):
            stage.end(index)
        await playing
        assert set(stage.due_s) == {0, 1, 2, 3}

    asyncio.run(play())


def test_in_a_closed_loop_the_next_is_sent_when_one_has_ended() -> None:
    async def play() -> None:
        stage = Stage()
        requests = [work(index, arrival_s=1000.0) for index in range(5)]
        playing = asyncio.create_task(stage.player(requests).play_closed(2))
        await settle()
        assert stage.on == [0, 1]
        stage.now_s = 3.0
        stage.end(1)
        await settle()
        assert stage.on == [0, 2]
        assert stage.due_s == {0: 0.0, 1: 0.0, 2: 3.0}
        for index in range(5):
            stage.end(index)
        await playing

    asyncio.run(play())


@given(st.data(), st.integers(1, 4))
def test_every_request_is_sent_once_in_either_loop(data: st.DataObject, num_clients: int) -> None:
    count = data.draw(st.integers(0, 12))
    requests = []
    for index in range(count):
        after = data.draw(st.none() | st.integers(0, index - 1)) if index else None
        requests.append(work(index, after=after))
    order = data.draw(st.permutations(range(count)))

    async def play(is_open: bool) -> None:
        stage = Stage()
        player = stage.player(requests)
        work = player.play_open() if is_open else player.play_closed(num_clients)
        playing = asyncio.create_task(work)
        for index in order:
            stage.end(index)
            await settle()
        await asyncio.wait_for(playing, 10)
        assert sorted(stage.due_s) == list(range(count))
        if not is_open:
            assert stage.most_on <= num_clients

    for is_open in (True, False):
        asyncio.run(play(is_open))


@pytest.mark.parametrize("after", [0, 1, 7])
def test_nothing_comes_after_what_is_not_before_it(after: int) -> None:
    with pytest.raises(ValueError, match=f"after {after}"):
        Player([work(0, after=after), work(1)], Stage().send, lambda: 0.0)
