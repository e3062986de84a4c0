from __future__ import annotations

import asyncio

import pytest

from aioioth.events import CarrierDown, CarrierUp, Event, EventsLost, EventStream


def ignore(_: EventStream) -> None:
    pass


async def test_events_come_in_order() -> None:
    stream = EventStream(ignore)
    events = [CarrierDown("vde0", "gone"), CarrierUp("vde0", 3), CarrierUp("vde1", 1)]
    for event in events:
        stream.push(event)
    assert [await anext(stream) for _ in events] == events


async def test_a_reader_waits_for_the_next_event() -> None:
    stream = EventStream(ignore)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    assert not reading.done()
    stream.push(CarrierUp("vde0", 1))
    assert await reading == CarrierUp("vde0", 1)


async def test_close_ends_the_stream_after_what_waits() -> None:
    stream = EventStream(ignore)
    stream.push(CarrierUp("vde0", 1))
    stream.close()
    assert [event async for event in stream] == [CarrierUp("vde0", 1)]
    assert [event async for event in stream] == []


async def test_close_wakes_a_reader() -> None:
    stream = EventStream(ignore)

    async def read() -> list[Event]:
        return [event async for event in stream]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    stream.close()
    assert await reading == []


async def test_close_unsubscribes_once() -> None:
    unsubscribed: list[EventStream] = []
    stream = EventStream(unsubscribed.append)
    stream.close()
    stream.close()
    assert unsubscribed == [stream]


async def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    stream = EventStream(ignore)
    for number in range(5000):
        stream.push(CarrierUp("vde0", number))
    stream.close()
    kept = [event async for event in stream]
    missing, *rest = kept
    assert missing == EventsLost("", 5000 - 1024)
    assert rest == [CarrierUp("vde0", number) for number in range(5000 - 1024, 5000)]


async def test_a_cancelled_reader_loses_nothing() -> None:
    stream = EventStream(ignore)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.push(CarrierUp("vde0", 1))
    reading.cancel()  # in the very turn in which the event came
    with pytest.raises(asyncio.CancelledError):
        await reading
    stream.push(CarrierUp("vde0", 2))
    stream.close()
    assert [event async for event in stream] == [
        CarrierUp("vde0", 1),
        CarrierUp("vde0", 2),
    ]


async def test_reading_again_after_a_cancellation() -> None:
    stream = EventStream(ignore)
    for _ in range(2):
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.push(CarrierDown("vde0", "gone"))
    assert await reading == CarrierDown("vde0", "gone")


def test_every_event_names_its_interface() -> None:
    for event in CarrierDown("vde0", "gone"), CarrierUp("vde0", 1):
        assert isinstance(event, Event)
        assert event.interface == "vde0"
