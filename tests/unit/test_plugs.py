"""`Inbox` and `Gate`, under poll(2) and under both event loops."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import pytest

from aioioth.plugs import Gate, Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUFFER = memoryview(bytearray(2000))
FRAMES = [bytes([number]) * 14 for number in range(8)]


class Descriptor(Protocol):
    def fileno(self) -> int: ...


def polled(what: Descriptor, event: int) -> bool:
    waiting = select.poll()
    waiting.register(what, event)
    found = waiting.poll(0)
    assert found in ([], [(what.fileno(), event)])  # never POLLERR
    return bool(found)


def is_readable(inbox: Inbox) -> bool:
    return polled(inbox, select.POLLIN)


def is_writable(gate: Gate) -> bool:
    return polled(gate, select.POLLOUT)


def read(inbox: Inbox) -> bytes:
    return bytes(BUFFER[: inbox.recv_into(BUFFER)])


def failure() -> OSError:
    return ConnectionResetError("the far end is gone")


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with closing(Inbox()) as made:
        yield made


@pytest.fixture
def gate() -> Iterator[Gate]:
    with closing(Gate()) as made:
        yield made


def test_frames_come_out_in_order(inbox: Inbox) -> None:
    for frame in FRAMES:
        inbox.put(frame)
    assert [read(inbox) for _ in FRAMES] == FRAMES
    with pytest.raises(BlockingIOError):
        read(inbox)


def test_readable_while_frames_wait(inbox: Inbox) -> None:
    assert not is_readable(inbox)
    for _ in range(3):
        inbox.put(FRAMES[0])
        inbox.put(FRAMES[1])
        assert is_readable(inbox)
        read(inbox)
        assert is_readable(inbox)
        read(inbox)
        with pytest.raises(BlockingIOError):
            read(inbox)
        assert not is_readable(inbox)


def test_long_frames_fill_a_queue_by_their_bytes() -> None:
    buffer = memoryview(bytearray(65536))
    with closing(Inbox()) as inbox:
        assert inbox.is_empty
        for _ in range(200):
            inbox.put(bytes(65536))
        assert inbox.drops == {"queue full": 200 - 128}  # 8 MiB
        inbox.put(b"short")
        assert inbox.drops == {"queue full": 200 - 128}
        inbox.recv_into(buffer)
        inbox.put(bytes(65536))
        inbox.put(bytes(4097))
        assert inbox.drops == {"queue full": 200 - 128 + 1}
        waiting = [inbox.recv_into(buffer) for _ in range(129)]
        assert waiting == [65536] * 127 + [5, 65536]
        inbox.put(bytes(65536))
        assert inbox.recv_into(buffer) == 65536


def test_a_full_queue_drops_what_is_new() -> None:
    with closing(Inbox(frames=2)) as inbox:
        for frame in FRAMES:
            inbox.put(frame)
        assert inbox.drops == {"queue full": 6}
        assert [read(inbox), read(inbox)] == FRAMES[:2]
        inbox.put(FRAMES[7])
        assert read(inbox) == FRAMES[7]
        assert inbox.drops == {"queue full": 6}


def test_a_failure_comes_after_the_frames(inbox: Inbox) -> None:
    inbox.put(FRAMES[0])
    inbox.fail(failure)
    assert read(inbox) == FRAMES[0]
    raised = []
    for _ in range(3):
        assert is_readable(inbox)
        with pytest.raises(ConnectionResetError, match="the far end is gone") as caught:
            read(inbox)
        raised.append(caught.value)
    assert len(set(map(id, raised))) == 3
    number = inbox.fileno()
    inbox.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)  # the errors do not keep it open


def test_a_failure_wakes_who_waits(inbox: Inbox) -> None:
    with pytest.raises(BlockingIOError):
        read(inbox)
    inbox.fail(failure)
    assert is_readable(inbox)


def test_closed(inbox: Inbox) -> None:
    number = inbox.fileno()
    inbox.put(FRAMES[0])
    inbox.close()
    inbox.close()
    assert inbox.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    for _ in range(3):
        with pytest.raises(OSError, match="the plug is closed") as caught:
            read(inbox)
        assert caught.value.errno == errno.EBADF


def test_closed_and_still_fed() -> None:
    inbox = Inbox(frames=2)
    number = inbox.fileno()
    inbox.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert other == number  # whoever writes to it now hurts somebody else
        for frame in FRAMES:
            inbox.put(frame)
        inbox.fail(failure)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    finally:
        os.close(other)
    assert inbox.drops == {}
    with pytest.raises(OSError, match="the plug is closed"):
        read(inbox)


def test_one_that_nobody_closed_leaves_nothing() -> None:
    number = Inbox().fileno()
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


class Interrupted(Inbox):
    """Another thread gets its turn at the worst moment: between the two looks."""

    meanwhile: Callable[[], None] | None = None

    @property
    def _woken(self) -> bool:
        return self._is_woken

    @_woken.setter
    def _woken(self, value: bool) -> None:
        if not value and (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()  # the flag is still up: nothing is written
        self._is_woken = value


def test_what_comes_between_the_looks_wakes_again() -> None:
    with closing(Interrupted()) as inbox:
        inbox.put(FRAMES[0])

        def put_three() -> None:
            for frame in FRAMES[:3]:
                inbox.put(frame)

        inbox.meanwhile = put_three
        assert read(inbox) == FRAMES[0]
        # The reader has had enough for now. The others are not forgotten.
        assert is_readable(inbox)
        assert [read(inbox), read(inbox), read(inbox)] == FRAMES[:3]
        assert not is_readable(inbox)


def test_a_failure_between_the_looks_comes_after_the_frames() -> None:
    with closing(Interrupted()) as inbox:
        inbox.put(FRAMES[0])

        def end() -> None:
            inbox.put(FRAMES[1])
            inbox.fail(failure)

        inbox.meanwhile = end
        assert [read(inbox), read(inbox)] == FRAMES[:2]
        assert is_readable(inbox)
        with pytest.raises(ConnectionResetError):
            read(inbox)
        assert is_readable(inbox)


@pytest.fixture
def _threads_take_turns() -> Iterator[None]:
    """As often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns")
@pytest.mark.parametrize("budget", [1, 3, 64])
async def test_another_thread(budget: int) -> None:
    """Each frame arrives, in order, however the two threads meet."""
    count = 3000
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    arrived: list[int] = []

    with closing(Inbox(frames=count)) as inbox:

        def on_readable() -> None:
            for _ in range(budget):
                try:
                    arrived.append(int.from_bytes(read(inbox)))
                except BlockingIOError:
                    return
                except ConnectionResetError:
                    loop.remove_reader(inbox.fileno())
                    done.set_result(None)
                    return

        def feed() -> None:
            for number in range(count):
                inbox.put(number.to_bytes(14))
            inbox.fail(failure)

        loop.add_reader(inbox.fileno(), on_readable)
        thread = threading.Thread(target=feed)
        thread.start()
        await done  # for ever, if a wake-up is lost
        thread.join()
    assert arrived == list(range(count))
    assert inbox.drops == {}


@pytest.mark.usefixtures("_threads_take_turns")
def test_closed_while_another_thread_feeds() -> None:
    """What it writes to is never somebody else's descriptor."""
    for _ in range(50):
        inbox = Inbox()
        started = threading.Event()

        def feed(inbox: Inbox = inbox, started: threading.Event = started) -> None:
            for _ in range(300):
                inbox.put(FRAMES[0])
                inbox.fail(failure)
                started.set()

        thread = threading.Thread(target=feed)
        thread.start()
        started.wait()
        inbox.close()
        others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
        thread.join()
        for other in others:
            with pytest.raises(BlockingIOError):
                os.eventfd_read(other)
            os.close(other)


async def test_the_loop_is_woken_until_all_is_read(inbox: Inbox) -> None:
    """Level-triggered: a reader may take one frame for each wake-up."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    got: list[bytes] = []

    def on_readable() -> None:
        got.append(read(inbox))
        if len(got) == len(FRAMES):
            done.set_result(None)

    for frame in FRAMES:
        inbox.put(frame)
    loop.add_reader(inbox.fileno(), on_readable)
    await done
    loop.remove_reader(inbox.fileno())
    assert got == FRAMES


def test_a_gate_under_poll(gate: Gate) -> None:
    assert (gate.is_shut, is_writable(gate)) == (False, True)
    for _ in range(3):
        gate.shut()
        gate.shut()
        assert (gate.is_shut, is_writable(gate)) == (True, False)
        gate.open()
        gate.open()
        assert (gate.is_shut, is_writable(gate)) == (False, True)


async def test_a_gate_under_a_loop(gate: Gate) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(3):
        seen = asyncio.Event()
        gate.shut()
        loop.add_writer(gate.fileno(), seen.set)
        for _ in range(5):
            await asyncio.sleep(0)  # a turn of the loop, which asks the kernel
            assert not seen.is_set()
        gate.open()
        await seen.wait()
        gate.shut()
        # The loop may have one more event in hand.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.clear()
        for _ in range(5):
            await asyncio.sleep(0)
            assert not seen.is_set()
        gate.open()
        await seen.wait()
        loop.remove_writer(gate.fileno())


@pytest.mark.parametrize("was_shut", [False, True])
def test_a_closed_gate(gate: Gate, was_shut: bool) -> None:
    if was_shut:
        gate.shut()
    number = gate.fileno()
    gate.close()
    gate.close()
    assert gate.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    gate.open()
    gate.shut()
    assert gate.is_shut == was_shut
