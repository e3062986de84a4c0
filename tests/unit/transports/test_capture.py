from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import resource
import stat
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth.testing import cancel_everywhere
from aioioth_transports import capture
from aioioth_transports.capture import CaptureTransport
from aioioth_transports.memory import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aioioth.abc import Plug

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
OTHER = b"\xff" * 6 + bytes.fromhex("020000000002 88b5") + b"good morning"

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BEGINNING = [SECTION, INTERFACE]
IN, OUT = 1, 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "frames.pcapng"


def kinds(data: bytes) -> list[int]:
    return [kind for kind, _ in blocks(data)]


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert 12 <= length <= len(data), "a block is cut off"
        assert data[length - 4 : length] == data[4:8]
        yield kind, data[8 : length - 4]
        data = data[length:]


def frames(data: bytes) -> list[tuple[bytes, int]]:
    """Return the frames of a file, and which way they went."""
    found = []
    for kind, body in blocks(data):
        if kind == PACKET:
            kept = struct.unpack_from("<I", body, 12)[0]
            found.append(
                (body[20 : 20 + kept], struct.unpack_from("<I", body, len(body) - 8)[0])
            )
    return found


async def loop_turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def received(plug: Plug) -> list[bytes]:
    buffer = memoryview(bytearray(2000))
    found: list[bytes] = []
    while True:
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            return found
        found.append(bytes(buffer[:length]))


async def test_both_ways(file: Path) -> None:
    transport = CaptureTransport(f"{file}{{memory://x}}")
    assert isinstance(transport, abc.FrameTransport)
    assert not file.exists()
    before = time.time_ns()
    plug = await transport.open("me")
    other = await MemoryTransport("x").open("other")
    assert plug.mtu == other.mtu
    assert kinds(file.read_bytes()) == BEGINNING
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"memory://x" in file.read_bytes()
    plug.send(FRAME)
    assert received(other) == [FRAME]
    other.send(OTHER)
    assert received(plug) == [OTHER]
    # In the file by the loop's next turn, without anything else to be done.
    await loop_turn()
    data = file.read_bytes()
    assert frames(data) == [(FRAME, OUT), (OTHER, IN)]
    heads = [
        struct.unpack_from("<II", body, 4)
        for kind, body in blocks(data)
        if kind == PACKET
    ]
    times = [before, *(high << 32 | low for high, low in heads), time.time_ns()]
    assert times == sorted(times)
    assert plug.drops == {}
    plug.close()
    plug.close()
    other.close()
    assert file.read_bytes() == data


async def test_what_waits_is_written_at_the_end(file: Path) -> None:
    plug = await CaptureTransport(f"{file}{{null://}}").open("me")
    for _ in range(200):
        plug.send(FRAME)
    plug.close()
    assert frames(file.read_bytes()) == [(FRAME, OUT)] * 200


async def test_what_the_network_did_not_take_is_not_there(
    file: Path, tmp_path: Path
) -> None:
    address = f"{file}{{vlan:///untag=5{{null://}}}}"
    plug = await CaptureTransport(address).open("me")
    with pytest.raises(OSError) as caught:
        plug.send(FRAME)
    assert caught.value.errno == errno.ENOMSG
    plug.close()
    assert kinds(file.read_bytes()) == BEGINNING


async def test_snaplen(file: Path) -> None:
    plug = await CaptureTransport(f"{file}[snaplen=14]{{null://}}").open("me")
    plug.send(FRAME)
    plug.close()
    assert frames(file.read_bytes()) == [(FRAME[:14], OUT)]


async def record(transport: CaptureTransport, *sent: bytes) -> None:
    plug = await transport.open("me")
    for frame in sent:
        plug.send(frame)
    plug.close()


async def test_a_file_is_begun_anew(file: Path) -> None:
    await record(CaptureTransport(f"{file}{{null://}}"), FRAME)
    await record(CaptureTransport(f"{file}{{null://}}"), OTHER)
    assert kinds(file.read_bytes()) == [*BEGINNING, PACKET]
    assert frames(file.read_bytes()) == [(OTHER, OUT)]


async def test_a_file_is_continued(file: Path) -> None:
    await record(CaptureTransport(f"{file}[append]{{null://}}"), FRAME)
    await record(CaptureTransport(f"{file}[append]{{null://}}"), OTHER)
    assert kinds(file.read_bytes()) == [*BEGINNING, PACKET] * 2
    assert frames(file.read_bytes()) == [(FRAME, OUT), (OTHER, OUT)]


async def test_a_file_goes_on_when_the_network_is_found_again(file: Path) -> None:
    transport = CaptureTransport(f"{file}{{null://}}")
    await record(transport, FRAME)
    # Attempts that lead to nothing leave no trace.
    for _ in range(5):
        await record(transport)
    await record(transport, OTHER)
    assert kinds(file.read_bytes()) == [*BEGINNING, PACKET] * 2
    # Somebody took the file away meanwhile.
    file.unlink()
    await record(transport, OTHER)
    assert kinds(file.read_bytes()) == [*BEGINNING, PACKET]


async def test_an_empty_file_is_a_new_one(file: Path) -> None:
    file.touch(0o640)
    await record(CaptureTransport(f"{file}[append]{{null://}}"), FRAME)
    assert kinds(file.read_bytes()) == [*BEGINNING, PACKET]


async def refusal(path: object, options: str = "") -> BrokenTransportError:
    with pytest.raises(BrokenTransportError) as caught:
        await CaptureTransport(f"{path}{options}{{null://}}").open("me")
    assert caught.value.vnl == f"capture://{path}{options}{{null://}}"
    return caught.value


@pytest.mark.parametrize("options", ["", "[append]"])
async def test_another_file_is_left_alone(file: Path, options: str) -> None:
    file.write_text("my diary")
    error = await refusal(file, options)
    assert "exists, and is no pcapng file" in str(error)
    assert error.errno == errno.EEXIST
    assert file.read_text() == "my diary"


async def test_a_file_that_is_cut_off_is_not_continued(file: Path) -> None:
    await record(CaptureTransport(f"{file}{{null://}}"), FRAME)
    whole = file.read_bytes()
    lengths = [len(body) + 12 for _, body in blocks(whole)]
    ends = set(itertools.accumulate(lengths))
    for end in set(range(4, len(whole))) - ends:
        file.write_bytes(whole[:end])
        error = await refusal(file, "[append]")
        assert "is cut off at its end; 'editcap OLD NEW'" in str(error)
        assert file.read_bytes() == whole[:end]
    await record(CaptureTransport(f"{file}{{null://}}"), FRAME)  # but begun anew
    assert len(file.read_bytes()) == len(whole)


async def test_one_stack_at_a_time(file: Path) -> None:
    transport = CaptureTransport(f"{file}{{null://}}")
    plug = await transport.open("me")
    plug.send(FRAME)
    for options in ("", "[append]"):
        error = await refusal(file, options)
        assert error.errno == errno.EBUSY
        assert "written by another stack" in str(error)
    plug.close()
    await record(transport, OTHER)
    assert frames(file.read_bytes()) == [(FRAME, OUT), (OTHER, OUT)]


async def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    error = await refusal(tmp_path / "none" / "file")
    assert error.errno == errno.ENOENT
    assert "none/file: cannot be written: No such file or directory" in str(error)
    error = await refusal(tmp_path)
    assert "is neither a file nor a FIFO" in str(error)
    error = await refusal("/dev/zero")
    assert "is neither a file nor a FIFO" in str(error)


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Have the kernel refuse to let files grow, as a full disk does.

    Source: setrlimit(2); EFBIG in place of ENOSPC, as Python ignores SIGXFSZ.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("spare", range(0, 60, 7))
async def test_a_full_disk(
    file: Path,
    spare: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture, "_RETRY_SECONDS", 0.0)
    plug = await CaptureTransport(f"{file}{{null://}}").open("me")
    plug.send(FRAME)
    await loop_turn()
    with limited_files(file.stat().st_size + spare):
        for _ in range(3):
            # Traffic goes on.
            assert plug.send(OTHER) == plug.send(OTHER) == len(OTHER)
            await loop_turn()
    torn = spare > 0
    assert plug.drops == {"not captured": 6 - torn}
    # There is room again.
    plug.send(FRAME)
    await loop_turn()
    written = [FRAME, *[OTHER] * torn, FRAME]
    assert frames(file.read_bytes()) == [(frame, OUT) for frame in written]
    (message,) = caplog.messages
    reason = "the disk is full" if torn else "File too large"
    assert message.endswith(f"frames are not captured: {reason}")
    plug.close()


@pytest.mark.parametrize("spare", range(0, 60, 7))
async def test_a_disk_that_stays_full(file: Path, spare: int) -> None:
    """The file is left with whole blocks in it."""
    plug = await CaptureTransport(f"{file}{{null://}}").open("me")
    plug.send(FRAME)
    await loop_turn()
    with limited_files(file.stat().st_size + spare):
        plug.send(OTHER)
        await loop_turn()
        plug.close()
    assert frames(file.read_bytes()) == [(FRAME, OUT)]


async def test_a_disk_that_is_full_from_the_beginning(file: Path) -> None:
    with limited_files(0):
        error = await refusal(file)
    assert error.errno == errno.EFBIG
    with limited_files(20):
        error = await refusal(file)
    assert error.errno == errno.ENOSPC
    await record(CaptureTransport(f"{file}{{null://}}"), FRAME)
    assert frames(file.read_bytes()) == [(FRAME, OUT)]


async def test_a_block_that_was_begun_is_completed_by_itself(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_RETRY_SECONDS", 0.001)
    plug = await CaptureTransport(f"{file}{{null://}}").open("me")
    with limited_files(file.stat().st_size + 10):
        plug.send(FRAME)
        await loop_turn()
    async with asyncio.timeout(10):
        while file.stat().st_size < 150:
            await asyncio.sleep(0.001)
    assert frames(file.read_bytes()) == [(FRAME, OUT)]
    plug.close()


async def test_a_child_writes_nothing(file: Path) -> None:
    plug = await CaptureTransport(f"{file}{{null://}}").open("me")
    plug.send(FRAME)
    child = os.fork()
    if child == 0:
        plug.close()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert kinds(file.read_bytes()) == BEGINNING
    with pytest.raises(BrokenTransportError, match="by another stack"):
        await CaptureTransport(f"{file}{{null://}}").open("me")
    plug.close()
    assert frames(file.read_bytes()) == [(FRAME, OUT)]


async def test_cancelled_at_each_await(file: Path) -> None:
    async def life() -> None:
        await record(CaptureTransport(f"{file}{{memory://x}}"), FRAME)

    await cancel_everywhere(life)


# FIFOs


class Reader:
    """Somebody who reads a FIFO."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                more = os.read(self.descriptor, 1 << 20)
            except BlockingIOError:
                return data
            if not more:
                return data
            data += more

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(capture, "_RETRY_SECONDS", 0.0)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_readers_come_and_go(fifo: Path) -> None:
    plug = await CaptureTransport(f"{fifo}{{null://}}").open("me")
    plug.send(OTHER)  # nobody is there
    await loop_turn()
    for _ in range(3):
        reader = Reader(fifo)
        plug.send(FRAME)
        await loop_turn()
        data = reader.read()
        assert kinds(data) == [*BEGINNING, PACKET]
        assert frames(data) == [(FRAME, OUT)]
        reader.close()
        plug.send(OTHER)
        await loop_turn()  # notices
    assert plug.drops == {}
    plug.close()


async def test_nobody_is_looked_for_all_the_time(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_RETRY_SECONDS", 3600.0)
    plug = await CaptureTransport(f"{fifo}{{null://}}").open("me")
    plug.send(OTHER)
    reader = Reader(fifo)
    plug.send(FRAME)
    await loop_turn()
    assert reader.read() == b""
    reader.close()
    plug.close()


async def test_a_reader_that_is_slow(
    fifo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plug = await CaptureTransport(f"{fifo}{{null://}}").open("me")
    reader = Reader(fifo)
    big = FRAME.ljust(1514, b"x")
    sent = 0
    while not plug.drops:
        for _ in range(10):
            plug.send(big)
        sent += 10
        await loop_turn()
        assert sent < 10_000
    (message,) = caplog.messages
    assert message.endswith(
        "frames are not captured: they are not read as quickly as they come"
    )
    data = reader.read()
    # What came in part is completed; what did not is missing, whole.
    plug.send(FRAME)
    await loop_turn()
    data += reader.read()
    found = frames(data)
    assert found[-1] == (FRAME, OUT)
    assert len(found) - 1 + plug.drops["not captured"] == sent
    assert set(found[:-1]) == {(big, OUT)}
    reader.close()
    plug.close()


async def test_a_burst_is_not_too_much(fifo: Path) -> None:
    reader = Reader(fifo)
    plug = await CaptureTransport(f"{fifo}{{null://}}").open("me")
    size = 0
    for _ in range(100):
        plug.send(FRAME.ljust(1514, b"x"))
        size += 1514 + 44
    await loop_turn()
    if fcntl.fcntl(reader.descriptor, fcntl.F_GETPIPE_SZ) > size:
        assert len(frames(reader.read())) == 100
    else:  # the system gives us no more
        assert plug.drops
    reader.close()
    plug.close()


async def test_closed_with_a_reader_who_is_gone(fifo: Path) -> None:
    reader = Reader(fifo)
    plug = await CaptureTransport(f"{fifo}{{null://}}").open("me")
    plug.send(FRAME)
    reader.close()
    plug.close()
    plug.close()


async def test_closed_with_a_reader_who_is_slow(fifo: Path) -> None:
    reader = Reader(fifo)
    plug = await CaptureTransport(f"{fifo}{{null://}}").open("me")
    while not plug.drops:
        plug.send(FRAME.ljust(9014))
    plug.close()
    reader.close()


PROGRAM = """
import asyncio
from aioioth_transports.capture import CaptureTransport
async def main():
    plug = await CaptureTransport("-{null://}").open("me")
    plug.send(bytes.fromhex("FRAME"))
    plug.close()
asyncio.run(main())
""".replace("FRAME", FRAME.hex())


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output(file: Path, kind: str) -> None:
    command = [sys.executable, "-c", PROGRAM]
    if kind == "pipe":
        data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    else:
        with file.open("wb") as stdout:
            subprocess.run(command, stdout=stdout, check=True)
        data = file.read_bytes()
    assert frames(data) == [(FRAME, OUT)]


@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("/f", 2, "expected a network in braces"),
        ("{null://}", 0, "expected a file: capture://FILE{VNL}"),
        ("/f[snaplen=0]{null://}", 11, "snaplen: expected a number from 1 to 262144"),
        ("/f[append=1]{null://}", 9, "append takes no value"),
        ("/f[x]{null://}", 3, "no option 'x'; known: snaplen, append"),
    ],
)
def test_what_makes_no_sense(address: str, position: int, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        CaptureTransport(address)
    assert caught.value.position == position
    assert caught.value.reason.startswith(reason)


@given(st.text("[]=apendsl1/'\"%\\{}", max_size=30))
def test_any_text(text: str) -> None:
    with contextlib.suppress(VnlError):
        CaptureTransport(f"{text}{{null://}}")
