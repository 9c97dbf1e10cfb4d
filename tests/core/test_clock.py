"""The virtual clock wakes sleepers in order and never by itself."""

import asyncio

from kimiya.core.clock import SystemClock, VirtualClock


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    clock, woken = VirtualClock(), []

    async def sleeper(delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append((delay_s, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        for delay_s in (3600.0, 1.0, 60.0):
            group.create_task(sleeper(delay_s))
        await clock.advance(59.0)
        assert woken == [(1.0, 1.0)]
        await clock.advance(4000.0)
    assert woken == [(1.0, 1.0), (60.0, 60.0), (3600.0, 3600.0)]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.advance(1)
    task.cancel()
    await asyncio.wait([task])
    assert clock.next_deadline_s is None


async def test_wall_time_moves_with_the_clock() -> None:
    clock = VirtualClock()
    began = clock.now()
    await clock.advance(90)
    assert (clock.now() - began).total_seconds() == 90


async def test_sleeping_for_nothing_gives_others_a_turn() -> None:
    turns: list[str] = []
    task = asyncio.create_task(_note(turns))
    await SystemClock().sleep(0)
    assert turns == ["other"]
    await task


async def _note(turns: list[str]) -> None:
    turns.append("other")
