from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest

from aioioth import _spares
from aioioth._spares import SpareSockets, drop_all_spares

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND = (2, 1, 0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock, to be set."""
    clock = [1000.0]
    monkeypatch.setattr(_spares, "monotonic", lambda: clock[0])
    return clock  # type: ignore[return-value]


def some(count: int) -> list[int]:
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]


async def test_only_a_burst_is_supplied(now: list[float]) -> None:
    spares = SpareSockets(asyncio.get_running_loop())
    asked = []
    for _ in range(5):
        now[0] += 0.001
        asked.append(spares.take(KIND))
    assert asked == [(None, 1), (None, 2), (None, 4), (None, 8), (None, 8)]
    now[0] += 1
    assert spares.take(KIND) == (None, 1)
    assert spares.take((10, 1, 0)) == (None, 1), "each kind by itself"


async def test_spares_are_taken_first(now: list[float]) -> None:
    spares = SpareSockets(asyncio.get_running_loop())
    spares.take(KIND)
    made = some(2)
    spares.keep(KIND, list(made))
    assert spares.descriptors() == set(made)
    assert spares.take((2, 2, 0)) == (None, 1)
    taken = [spares.take(KIND)[0] for _ in made]
    assert set(taken) == set(made)
    assert spares.take(KIND)[0] is None
    for descriptor in made:
        os.close(descriptor)


async def test_what_nobody_takes_is_closed() -> None:
    spares = SpareSockets(asyncio.get_running_loop())
    spares.take(KIND)
    (made,) = some(1)
    spares.keep(KIND, [made])
    async with asyncio.timeout(10):
        while spares.descriptors():
            await asyncio.sleep(0.01)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(made)


async def test_nothing_is_kept_after_close() -> None:
    spares = SpareSockets(asyncio.get_running_loop())
    before, after = some(2)
    spares.keep(KIND, [before])
    spares.close()
    spares.keep(KIND, [after])
    for descriptor in (before, after):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)


def test_nothing_is_kept_without_a_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    (made,) = some(1)
    SpareSockets(loop).keep(KIND, [made])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(made)


async def test_threads() -> None:
    spares = SpareSockets(asyncio.get_running_loop())
    taken: list[int] = []

    def work() -> None:
        for _ in range(200):
            descriptor, count = spares.take(KIND)
            if descriptor is None:
                descriptor, *more = some(count)
                spares.keep(KIND, more)
            taken.append(descriptor)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 800
    for descriptor in taken:
        os.close(descriptor)
    drop_all_spares()
    assert not spares.descriptors()
