"""``ptp://``: who is first, who is second, who is refused, and who has gone."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

import aioioth
from aioioth import abc
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError, VnlError
from aioioth_transports import ptp
from aioioth_transports.ptp import DatagramPlug, ListeningPlug, PtpTransport
from aioioth_transports.seqpacket import SeqpacketPlug

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
FORMS = ["datagram", "seqpacket"]
BUFFER = memoryview(bytearray(65554))


@pytest.fixture
def path() -> Iterator[str]:
    """Short, since the kernel takes 107 bytes; nothing is left in its directory."""
    with tempfile.TemporaryDirectory(prefix="ptp-") as directory:
        yield f"{directory}/p"
        assert os.listdir(directory) == []


async def poll(plug: abc.Plug) -> bytes | None:
    """Take what is there; a turn of the loop passes."""
    await asyncio.sleep(0)
    try:
        return bytes(BUFFER[: plug.recv_into(BUFFER) or 0])
    except BlockingIOError:
        return None


async def receive(plug: abc.Plug) -> bytes:
    async with asyncio.timeout(10):
        while (frame := await poll(plug)) is None:
            await asyncio.sleep(0.001)
    return frame


async def send_soon(plug: abc.Plug, frame: bytes) -> None:
    """Send a frame, as soon as the other one has noticed that its last has gone."""
    async with asyncio.timeout(10):
        while True:
            try:
                plug.send(frame)
            except OSError as error:
                if error.errno != errno.ENETUNREACH:
                    raise
                await asyncio.sleep(0.01)
            else:
                return


async def open_while(
    plug: abc.Plug, opening: Coroutine[None, None, abc.Plug]
) -> abc.Plug:
    """Open the other end while this one is looked after, as a pump does it."""
    task = asyncio.create_task(opening)
    while not task.done():
        assert await poll(plug) is None
        await asyncio.sleep(0.001)
    return await task


async def open_two(path: str, form: str) -> tuple[abc.Plug, abc.Plug]:
    one = await PtpTransport(f"{path}[{form}]").open("one")
    return one, await open_while(one, PtpTransport(path).open("two"))


def unix(kind: int, undo: ExitStack) -> socket.socket:
    sock = undo.enter_context(socket.socket(socket.AF_UNIX, kind))
    sock.settimeout(10)
    return sock


def has_trouble(plug: abc.Plug) -> bool:
    return bool(select.select([plug.hangup_fileno()], [], [], 0)[0])


@pytest.mark.parametrize(
    ("address", "reason", "position"),
    [
        ("", "expected the path", 0),
        ("[seqpacket]", "expected the path", 0),
        ("/tmp/p[stream]", "no option 'stream'; known: datagram, seqpacket", 7),
        ("/tmp/p[seqpacket=1]", "takes no value", 16),
        ("/tmp/p[datagram/seqpacket]", "not both", 16),
        ("/tmp/" + 102 * "p", "the path has 107 bytes", 0),
    ],
)
def test_bad_addresses(address: str, reason: str, position: int) -> None:
    with pytest.raises(VnlError, match=reason) as caught:
        PtpTransport(address)
    assert caught.value.position == position


@given(st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        transport = PtpTransport(address)
    except VnlError:
        return
    assert isinstance(transport, abc.FrameTransport)


@pytest.mark.parametrize("form", FORMS)
async def test_frames_go_both_ways(path: str, form: str) -> None:
    one, two = await open_two(path, form)
    assert isinstance(one, abc.Plug)
    assert isinstance(two, abc.Plug)
    for frame in (FRAME[:14], FRAME, FRAME * 400, bytes(9234)):
        assert one.send(frame) == two.send(frame) == len(frame)
        assert await receive(two) == await receive(one) == frame
    assert await poll(one) is await poll(two) is None
    for plug in (one, two):
        plug.close()
        plug.close()
        assert plug.fileno() == plug.hangup_fileno() == -1
        with pytest.raises((OSError, ValueError)):
            plug.recv_into(BUFFER)


async def test_the_second_does_as_the_first(path: str) -> None:
    one, two = await open_two(path, "seqpacket")
    assert isinstance(one, ListeningPlug)
    assert isinstance(two, SeqpacketPlug)
    one.close()
    two.close()
    one = await PtpTransport(path).open("one")
    two = await PtpTransport(f"{path}[seqpacket]").open("two")
    assert isinstance(one, DatagramPlug)
    assert isinstance(two, DatagramPlug)
    one.close()
    # The next is first again, but the one that waits there waits for datagrams.
    one = await PtpTransport(f"{path}[seqpacket]").open("one")
    await send_soon(one, FRAME)
    assert await receive(two) == FRAME
    one.close()
    two.close()


@pytest.mark.parametrize("form", FORMS)
async def test_files_are_for_the_owner_and_go_with_their_maker(
    path: str, form: str
) -> None:
    one, two = await open_two(path, form)
    files = [Path(path)] + [Path(path + "+")] * (form == "datagram")
    assert sorted(Path(path).parent.iterdir()) == files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    one.close()
    assert sorted(Path(path).parent.iterdir()) == files[1:]
    two.close()
    assert list(Path(path).parent.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
async def test_somebody_elses_file_stays(path: str, form: str) -> None:
    plug = await PtpTransport(f"{path}[{form}]").open("one")
    Path(path).unlink()
    Path(path).write_text("mine")
    plug.close()
    assert Path(path).read_text() == "mine"
    Path(path).unlink()


@pytest.mark.parametrize("form", FORMS)
async def test_a_forked_child_leaves_everything_to_its_parent(
    path: str, form: str
) -> None:
    one, two = await open_two(path, form)
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        status = 1
        try:
            one.close()
            two.close()
            status = 0
        finally:
            os._exit(status)
    assert Path(path).exists()
    one.send(FRAME)
    assert await receive(two) == FRAME
    two.send(FRAME)
    assert await receive(one) == FRAME
    one.close()
    two.close()


@pytest.mark.parametrize("form", FORMS)
async def test_a_third_is_refused(path: str, form: str) -> None:
    one, two = await open_two(path, form)
    for _ in range(3):
        with pytest.raises(BrokenTransportError, match="two are joined") as caught:
            await open_while(one, PtpTransport(path).open("three"))
        assert caught.value.errno == errno.EBUSY
    one.send(FRAME)
    assert await receive(two) == FRAME
    one.close()
    two.close()


@pytest.mark.parametrize("form", FORMS)
async def test_who_is_alone_drops(path: str, form: str) -> None:
    one = await PtpTransport(f"{path}[{form}]").open("one")
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            one.send(FRAME)
        assert caught.value.errno == errno.ENETUNREACH
        assert await poll(one) is None
    two = await open_while(one, PtpTransport(path).open("two"))
    one.send(FRAME)
    assert await receive(two) == FRAME
    one.close()
    two.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["", "+"])
async def test_a_stale_socket_is_replaced(path: str, form: str, end: str) -> None:
    with ExitStack() as undo:
        unix(socket.SOCK_DGRAM, undo).bind(path + end)
    assert os.path.lexists(path + end)
    one, two = await open_two(path, form)
    one.send(FRAME)
    assert await receive(two) == FRAME
    one.close()
    two.close()
    if form == "seqpacket" and end:
        Path(path + end).unlink()  # it was not in the way


async def test_what_is_in_the_way_stays(path: str) -> None:
    Path(path).write_text("a letter")
    with pytest.raises(BrokenTransportError, match="no socket: take another path"):
        await PtpTransport(path).open("one")
    assert Path(path).read_text() == "a letter"
    Path(path).unlink()
    Path(path).symlink_to("nowhere")
    with pytest.raises(BrokenTransportError, match="no socket: take another path"):
        await PtpTransport(path).open("one")
    Path(path).unlink()
    with ExitStack() as undo:
        listener = unix(socket.SOCK_STREAM, undo)
        listener.bind(path)
        listener.listen()
        with pytest.raises(BrokenTransportError, match="something else") as caught:
            await PtpTransport(path).open("one")
        assert caught.value.errno == errno.EPROTOTYPE
    Path(path).unlink()


async def test_no_directory() -> None:
    with pytest.raises(BrokenTransportError, match="no directory /nowhere") as caught:
        await PtpTransport("/nowhere/p").open("one")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
async def test_a_directory_that_is_not_ours() -> None:
    with pytest.raises(BrokenTransportError, match="you may not use /p") as caught:
        await PtpTransport("/p").open("one")
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("form", FORMS)
async def test_a_full_way_is_refused_and_becomes_free(path: str, form: str) -> None:
    one, two = await open_two(path, form)
    # The first of the datagram form connects when it sends or looks.
    for plug, other in ((one, two), (two, one)):
        plug.send(FRAME)
        assert await receive(other) == FRAME
    for plug, other in ((one, two), (two, one)):
        sent = 0
        room = (
            plug.room_fileno() if isinstance(plug, abc.SignalsRoom) else plug.fileno()
        )
        with pytest.raises(BlockingIOError):
            while True:
                plug.send(FRAME * 70)
                sent += 1
        assert sent > 20
        assert not select.select([], [room], [], 0)[1]
        for _ in range(sent):
            assert await receive(other) == FRAME * 70
        assert await poll(other) is None
        assert select.select([], [room], [], 0)[1]
    one.close()
    two.close()


async def test_the_next_one_takes_the_place_of_one_that_has_gone(path: str) -> None:
    one, two = await open_two(path, "datagram")
    one.send(FRAME)
    assert await receive(two) == FRAME
    two.close()
    # Debian's would be refused now, and not come again.
    with ExitStack() as undo:
        three = unix(socket.SOCK_DGRAM, undo)
        with pytest.raises(PermissionError):
            three.connect(path)
        # `one` has nothing to send.
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0.01)
                try:
                    three.connect(path)
                except PermissionError:
                    continue
                break
        three.send(FRAME)
        assert await receive(one) == FRAME
    with pytest.raises(OSError) as caught:
        one.send(FRAME)
    assert caught.value.errno == errno.ENETUNREACH
    # And ours comes in any case; here before `one` has noticed.
    two = await PtpTransport(path).open("two")
    one.send(FRAME)
    assert await receive(two) == FRAME
    two.close()
    three_ours = await PtpTransport(path).open("three")
    one.send(FRAME)
    assert await receive(three_ours) == FRAME
    assert three_ours.send(FRAME) == len(FRAME)
    assert await receive(one) == FRAME
    one.close()
    # The other way round: the first goes.
    with pytest.raises(OSError) as caught:
        three_ours.send(FRAME)
    assert caught.value.errno == errno.ENETUNREACH
    one = await PtpTransport(path).open("one")
    await send_soon(three_ours, FRAME)
    assert await receive(one) == FRAME
    one.close()
    three_ours.close()


async def test_any_datagram_is_a_frame_and_an_error_is_told(path: str) -> None:
    one = await PtpTransport(path).open("one")
    with ExitStack() as undo:
        evil = unix(socket.SOCK_DGRAM, undo)
        evil.bind(path + "+")
        evil.connect(path)
        for data in (b"", b"x", bytes(65554), bytes(100_000)):
            evil.send(data)
            assert await receive(one) == data[:65554]
        assert one.send(FRAME) == len(FRAME)
        assert not has_trouble(one)
        # It turns away from us with a frame of ours unread: an error for our socket.
        third = unix(socket.SOCK_DGRAM, undo)
        third.bind(path + "3")
        evil.connect(path + "3")
        assert has_trouble(one)
        with pytest.raises(ConnectionResetError):
            one.recv_into(BUFFER)
    one.close()
    for end in ("+", "3"):
        Path(path + end).unlink()


@pytest.mark.parametrize("first", [True, False])
async def test_a_hangup_breaks_the_seqpacket_form(path: str, first: bool) -> None:
    one, two = await open_two(path, "seqpacket")
    if not first:
        one, two = two, one
    two.send(FRAME)
    assert await receive(one) == FRAME
    # What is not read makes an error of the hangup, which libuv must not see.
    one.send(FRAME)
    two.close()
    if one.hangup_fileno() != -1:
        assert has_trouble(one)
    else:
        assert select.select([one.fileno()], [], [], 0)[0]
    with pytest.raises(ConnectionResetError):
        one.recv_into(BUFFER)
    with pytest.raises(OSError) as caught:
        one.send(FRAME)
    assert caught.value.errno in {errno.EPIPE, errno.ECONNRESET}
    one.close()


@pytest.mark.parametrize("form", FORMS)
async def test_two_that_come_at_the_same_moment(path: str, form: str) -> None:
    transports = [PtpTransport(f"{path}[{form}]") for _ in range(2)]
    openings = [asyncio.create_task(each.open("x")) for each in transports]
    plugs: list[abc.Plug] = []
    async with asyncio.timeout(10):
        while len(plugs) < 2:
            await asyncio.sleep(0.001)
            for each in [each for each in openings if each.done()]:
                openings.remove(each)
                plugs.append(await each)
            for plug in plugs:
                await poll(plug)
    plugs[0].send(FRAME)
    assert await receive(plugs[1]) == FRAME
    for plug in plugs:
        plug.close()


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        (bytes((errno.EISCONN,)), BrokenTransportError, "two are joined"),
        (bytes((errno.EACCES,)), BrokenTransportError, "refused: Permission denied"),
        (None, HandshakeTimeoutError, "said nothing for 0.05 s"),
        (b"", BrokenTransportError, "nobody answers"),
    ],
)
async def test_what_a_listener_answers(
    path: str,
    answer: bytes | None,
    error: type[Exception],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if answer is None:
        monkeypatch.setattr(ptp, "_HANDSHAKE_SECONDS", 0.05)
    with ExitStack() as undo:
        listener = unix(socket.SOCK_SEQPACKET, undo)
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(1)

        def answer_all() -> None:
            sock, _ = listener.accept()
            undo.enter_context(sock)
            if answer:
                sock.send(answer)
            elif answer is not None:
                sock.close()

        loop = asyncio.get_running_loop()
        loop.add_reader(listener, answer_all)
        try:
            with pytest.raises(error, match=reason):
                await PtpTransport(path).open("one")
        finally:
            loop.remove_reader(listener)
    Path(path).unlink()


async def test_a_vde_that_connects_is_answered(path: str) -> None:
    """The wire of the SEQPACKET form: a byte 0, or EISCONN; then frames."""
    plug = await PtpTransport(f"{path}[seqpacket]").open("one")
    with ExitStack() as undo:
        vde = unix(socket.SOCK_SEQPACKET, undo)
        vde.connect(path)
        assert await poll(plug) is None
        assert vde.recv(10) == b"\0"
        another = unix(socket.SOCK_SEQPACKET, undo)
        another.connect(path)
        assert await poll(plug) is None
        assert another.recv(10) == bytes((errno.EISCONN,))
        assert another.recv(10) == b""
        plug.send(FRAME)
        assert vde.recv(2000) == FRAME
        vde.send(FRAME)
        assert await receive(plug) == FRAME
        # One that has gone before it was answered does no harm.
        hasty = unix(socket.SOCK_SEQPACKET, undo)
        hasty.connect(path)
        hasty.close()
        assert await poll(plug) is None
        vde.send(FRAME)
        assert await receive(plug) == FRAME
    plug.close()


@pytest.mark.parametrize("form", FORMS)
async def test_cancelled_at_every_turn_nothing_is_left(path: str, form: str) -> None:
    one = None
    for first in (True, False):
        if not first:
            one = await PtpTransport(f"{path}[{form}]").open("one")
        for turns in range(12):
            opening = asyncio.create_task(PtpTransport(f"{path}[{form}]").open("x"))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            try:
                plug = await opening
            except asyncio.CancelledError:
                pass
            else:
                plug.close()
        if one is not None:
            assert sorted(os.listdir(Path(path).parent)) == ["p"]
            one.close()


@pytest.mark.parametrize("form", FORMS)
async def test_stacks_talk_at_full_rate_both_ways_and_meet_again(
    path: str, form: str
) -> None:
    """The original's ends block each other in their sends."""
    size = 4_000_000

    async def exchange(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async def send() -> None:
            writer.write(bytes(size))
            await writer.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            await reader.readexactly(size)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exchange(reader, writer)
        writer.close()
        await writer.wait_closed()

    def drops(stack: aioioth.Stack) -> set[str]:
        return set(stack.stats()["vde0"].sent.drops)

    async with (
        aioioth.Stack(f"ptp://{path}[{form}]", ip="10.0.0.1/24") as one,
        await one.start_server(serve, "10.0.0.1", 7),
    ):
        for _ in range(2):
            async with (
                aioioth.Stack(f"ptp://{path}", ip="10.0.0.2/24") as two,
                asyncio.timeout(30),
            ):
                reader, writer = await two.open_connection("10.0.0.1", 7)
                await exchange(reader, writer)
                assert await reader.read() == b""  # the server has everything
                writer.close()
                await writer.wait_closed()
                assert drops(two) <= {"unreachable"}
        assert drops(one) <= {"unreachable"}
