"""Open loops do not wait for answers, closed ones do; both end once, however they end."""

import gevent
import pytest
from gevent.event import Event
from locust.exception import StopUser

from benchmarks.locust_load.ask import Ask
from benchmarks.locust_load.client import Failed, Outcome
from benchmarks.locust_load.loops import ClosedLoop, OpenLoop
from benchmarks.locust_load.shapes import Shape, make_shape
from benchmarks.locust_load.supply import Planned
from motet.bench.workload import WorkRequest


def ask(name: object) -> Ask:
    return Ask(path="/", body=b"", headers={}, group=str(name))


def planned(index: int, at_s: float = 0.0, after: int | None = None) -> Planned:
    request = WorkRequest(
        index=index,
        arrival_s=at_s,
        adapter=None,
        num_prompt_tokens=1,
        num_output_tokens=1,
        stream=index,
        after=after,
    )
    return Planned(request=request, at_s=at_s, round_number=0, names={None: "base"})


class Server:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = Event()
        self.running: list[str] = []
        self.ended: list[str] = []
        self.given_up: list[str] = []
        self.most_running = 0

    def send(self, ask: Ask, due_s: float) -> Outcome:
        self.running.append(ask.group)
        self.most_running = max(self.most_running, len(self.running))
        try:
            self.may_answer.wait()
        except gevent.GreenletExit:
            self.given_up.append(ask.group)
            raise
        finally:
            self.running.remove(ask.group)
        self.ended.append(ask.group)
        return Failed("does not matter")


class Ends:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def open_loop(
    requests: list[Planned], server: Server, ends: Ends, shape: Shape | None = None
) -> OpenLoop:
    return OpenLoop(requests, lambda each: ask(each.request.index), server.send, shape, ends)


def spawn_user(loop: OpenLoop | ClosedLoop) -> gevent.Greenlet:
    def play() -> None:
        try:
            while True:
                loop.play()
        except StopUser:
            pass

    return gevent.spawn(play)


def wait_until_idle() -> None:
    gevent.sleep(0.02)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    server, ends = Server(), Ends()
    user = spawn_user(open_loop([planned(index) for index in range(50)], server, ends))
    wait_until_idle()
    assert len(server.running) == 50
    assert ends.count == 0
    server.may_answer.set()
    user.join()
    assert len(server.ended) == 50
    assert ends.count == 1


def test_what_comes_after_a_request_waits_for_it() -> None:
    server, ends = Server(), Ends()
    requests = [planned(0), planned(1, after=0), planned(2), planned(3, after=1)]
    user = spawn_user(open_loop(requests, server, ends))
    wait_until_idle()
    assert sorted(server.running) == ["0", "2"]
    server.may_answer.set()
    user.join()
    assert [name for name in server.ended if name != "2"] == ["0", "1", "3"]


def test_an_open_loop_ends_with_its_shape() -> None:
    server, ends = Server(), Ends()
    server.may_answer.set()
    # With its middle fifth at twice the rate, a tenth of a second is worth 0.12 s.
    shape = make_shape("spike", 0.1, 2.0)
    requests = [planned(0), planned(1, 0.11), planned(2, 0.13), planned(3, 1000.0)]
    spawn_user(open_loop(requests, server, ends, shape)).join()
    assert server.ended == ["0", "1"]
    assert ends.count == 1


@pytest.mark.parametrize("grace_s", [0.0, 10.0])
def test_a_stopped_open_loop_gives_up_what_has_not_ended(grace_s: float) -> None:
    server, ends = Server(), Ends()
    loop = open_loop([planned(0), planned(1), planned(2, 1000.0)], server, ends)
    user = spawn_user(loop)
    wait_until_idle()
    stopper = gevent.spawn(loop.stop, grace_s)
    wait_until_idle()
    server.may_answer.set()
    gevent.joinall([user, stopper])
    assert sorted(server.given_up if grace_s == 0 else server.ended) == ["0", "1"]
    assert ends.count == 1


def test_a_killed_open_loop_leaves_nothing_behind() -> None:
    server, ends = Server(), Ends()
    user = spawn_user(open_loop([planned(0), planned(1, 1000.0)], server, ends))
    wait_until_idle()
    user.kill()
    assert server.given_up == ["0"]
    assert ends.count == 1


def test_users_of_a_closed_loop_ask_one_thing_after_another() -> None:
    server, ends = Server(), Ends()
    talks = [[ask(f"{talk}.{turn}") for turn in range(3)] for talk in range(4)]
    loop = ClosedLoop(iter(talks), server.send, 0.0, ends)
    users = [spawn_user(loop) for _ in range(2)]
    wait_until_idle()
    assert sorted(server.running) == ["0.0", "1.0"]
    server.may_answer.set()
    gevent.joinall(users)
    assert sorted(server.ended) == sorted(each.group for talk in talks for each in talk)
    assert server.most_running == 2
    for talk in talks:
        names = [each.group for each in talk]
        assert [name for name in server.ended if name in names] == names
    assert ends.count == 1


@pytest.mark.parametrize("grace_s", [0.0, 10.0])
def test_a_stopped_closed_loop_asks_nothing_more(grace_s: float) -> None:
    server, ends = Server(), Ends()
    loop = ClosedLoop(iter([[ask("0"), ask("1")], [ask("2")]]), server.send, 0.0, ends)
    user = spawn_user(loop)
    wait_until_idle()
    stopper = gevent.spawn(loop.stop, grace_s)
    wait_until_idle()
    server.may_answer.set()
    gevent.joinall([user, stopper])
    assert (server.given_up if grace_s == 0 else server.ended) == ["0"]
    assert ends.count == 1


def test_a_closed_loop_without_users_can_be_stopped() -> None:
    ends = Ends()
    ClosedLoop(iter([[ask("0")]]), Server().send, 0.0, ends).stop(10.0)
    assert ends.count == 1
