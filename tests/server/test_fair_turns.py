"""Turns that groups take one after another."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from motet.server.fair_turns import FairTurns


@contextlib.asynccontextmanager
async def turn_of(group: str, turns: FairTurns, timeout_s: float = 20) -> AsyncIterator[None]:
    async with asyncio.timeout(timeout_s):
        await turns.take(group)
    try:
        yield
    finally:
        turns.pass_on()


def test_a_flood_of_one_group_holds_others_up_for_one_turn() -> None:
    async def run() -> list[str]:
        turns, order = FairTurns(), list[str]()

        async def work(group: str, name: str) -> None:
            async with turn_of(group, turns):
                order.append(name)
                await asyncio.sleep(0)

        names = [*(f"a{i}" for i in range(5)), "b0", "c0", "b1"]
        await asyncio.gather(*(work(name[0], name) for name in names))
        return order

    assert asyncio.run(run()) == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4"]


def test_who_waits_too_long_is_gone() -> None:
    async def run() -> None:
        turns = FairTurns()
        async with turn_of("a", turns):
            with pytest.raises(TimeoutError):
                async with turn_of("b", turns, 0.01):
                    pass
            assert turns.num_waiting("b") == 0
        async with turn_of("c", turns, 0):
            pass

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(30))
def test_whoever_gives_up_at_whatever_moment(seed: int) -> None:
    """There is never more than one turn, and none is lost."""

    async def run() -> None:
        draw = random.Random(seed)
        turns, num_at_work, num_done = FairTurns(), 0, 0

        async def work(group: str) -> None:
            nonlocal num_at_work, num_done
            async with turn_of(group, turns):
                num_at_work += 1
                assert num_at_work == 1
                try:
                    for _ in range(draw.randrange(3)):
                        await asyncio.sleep(0)
                finally:
                    num_at_work -= 1
                num_done += 1

        tasks = [asyncio.create_task(work(draw.choice("abc"))) for _ in range(30)]
        for task in draw.sample(tasks, 15):
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert num_done == sum(result is None for result in results)
        assert all(
            result is None or isinstance(result, asyncio.CancelledError) for result in results
        )
        assert not any(turns.num_waiting(group) for group in "abc")
        async with turn_of("d", turns, 0):  # it is free
            pass

    asyncio.run(run())
