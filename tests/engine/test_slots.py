"""Who is answered next and where, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from sapwood.engine.slots import Slots, shared
from sapwood.engine.wire import Refused


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_what_another_adapter_computed_is_never_used() -> None:
    async def work() -> None:
        slots = Slots(1)
        slot = await slots.take("first", [1, 2, 3])
        assert slot.clean
        slots.give(slot)
        slot = await slots.take("first", [1, 2, 3, 4])
        assert not slot.clean
        slots.give(slot)
        assert (await slots.take(None, [1, 2, 3, 4])).clean

    run(work())


def test_an_adapter_comes_back_to_the_place_that_holds_the_most_of_its_prompt() -> None:
    async def work() -> None:
        slots = Slots(3)
        places = [await slots.take("a", ids) for ids in ([1, 2, 3], [1, 9], [7])]
        for place in places:
            slots.give(place)
        assert (await slots.take("a", [1, 9, 4])).number == places[1].number
        assert (await slots.take("a", [1, 2, 3, 4])).number == places[0].number

    run(work())


def test_a_place_that_nobody_used_is_taken_before_another_adapters() -> None:
    async def work() -> None:
        slots = Slots(2)
        first = await slots.take("a", [1])
        slots.give(first)
        assert (await slots.take("b", [1])).number != first.number

    run(work())


def test_answers_of_one_adapter_are_neighbours() -> None:
    async def work() -> None:
        slots = Slots(6)
        a = [await slots.take("a", [i]) for i in range(3)]
        assert [slot.number for slot in a] == [0, 1, 2]
        for slot in (a[1], a[0], a[2]):  # the order in which they end says nothing
            slots.give(slot)
        b = [await slots.take("b", [i]) for i in range(2)]
        assert abs(b[0].number - b[1].number) == 1
        again = sorted([(await slots.take("a", [50 + i])).number for i in range(3)])
        assert again == [0, 1, 2]

    run(work())


def test_a_gap_between_neighbours_is_filled_first() -> None:
    async def work() -> None:
        slots = Slots(8)
        taken = [await slots.take("a", [i]) for i in range(5)]
        for slot in (taken[1], taken[3], taken[0]):
            slots.give(slot)
        left = sorted(slot.number for slot in (taken[2], taken[4]))
        between = (await slots.take("a", [9])).number
        assert left[0] < between < left[1]

    run(work())


def test_a_long_beginning_is_worth_more_than_a_neighbour() -> None:
    async def work() -> None:
        slots, long = Slots(8), list(range(2000))
        taken = [await slots.take("a", ids) for ids in ([1], [2], [3], [4], long)]
        for slot in taken[1:]:
            slots.give(slot)
        assert (await slots.take("a", [*long[:100], 1])).number == taken[1].number
        assert (await slots.take("a", [*long, 1])).number == taken[4].number

    run(work())


def test_the_first_to_come_is_the_first_to_go() -> None:
    async def work() -> None:
        slots, order = Slots(1), list[int]()
        held = await slots.take("a", [1])

        async def caller(number: int) -> None:
            place = await slots.take("a", [1])
            order.append(number)
            slots.give(place)

        waiting = [asyncio.create_task(caller(i)) for i in range(5)]
        await asyncio.sleep(0)
        assert slots.waiting == 5
        slots.give(held)
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2, 3, 4] and slots.busy == 0

    run(work())


def test_a_full_queue_and_a_long_wait_have_errors_of_their_own() -> None:
    async def work() -> None:
        slots = Slots(1, most=1, patience=0.05)
        await slots.take("a", [1])
        waiting = asyncio.create_task(slots.take("a", [1]))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as full:
            await slots.take("a", [1])
        with pytest.raises(Refused) as late:
            await waiting
        assert (full.value.status, late.value.status) == (429, 503)

    run(work())


def test_a_caller_that_leaves_just_as_it_is_called_loses_no_place() -> None:
    async def work() -> None:
        slots = Slots(1)
        held = await slots.take("a", [1])
        leaving = asyncio.create_task(slots.take("a", [1]))
        staying = asyncio.create_task(slots.take("a", [1]))
        await asyncio.sleep(0)
        slots.give(held)
        leaving.cancel()
        place = await asyncio.wait_for(staying, 1)
        assert leaving.cancelled() or not leaving.done() or leaving.exception() is None
        slots.give(place)

    run(work())


def test_nobody_gets_in_while_it_is_shut() -> None:
    async def work() -> None:
        slots = Slots(2)
        held = await slots.take("a", [1])
        shutting = asyncio.create_task(slots.shut())
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(slots.take("b", [1]))
        await asyncio.sleep(0.02)
        assert not shutting.done() and not waiting.done()
        slots.give(held)
        await asyncio.wait_for(shutting, 1)
        assert not waiting.done()
        slots.forget()
        slots.open()
        await asyncio.wait_for(waiting, 1)

    run(work())


def test_a_common_beginning_is_counted() -> None:
    assert [shared([1, 2, 3], [1, 2, 4]), shared([], [1]), shared([5], [5]), shared([1], [2])] == [2, 0, 1, 0]
