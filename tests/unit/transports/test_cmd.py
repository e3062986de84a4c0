"""``cmd://`` and ``stream://-``: Python programs are at the other end."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioioth import abc
from aioioth.errors import BrokenTransportError, VnlError
from aioioth_transports import _child
from aioioth_transports.cmd import CmdTransport, split_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aioioth_transports._framed import StreamPlug

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
PATIENCE = 10
BUFFER = memoryview(bytearray(65554))

pytestmark = pytest.mark.usefixtures("_loop_is_content")


async def frame_from(plug: abc.Plug) -> bytes:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(plug.fileno(), ready.set)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    length = plug.recv_into(BUFFER)
                except BlockingIOError:
                    ready.clear()
                    await ready.wait()
                else:
                    assert length is not None
                    return bytes(BUFFER[:length])
    finally:
        loop.remove_reader(plug.fileno())


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[StreamPlug]:
    plug = await CmdTransport(address).open("me")
    try:
        yield plug
    finally:
        plug.close()


def has_ended(pidfd: int, seconds: float = PATIENCE) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Descriptors of processes, to be closed."""
    found: list[int] = []
    yield found
    for each in found:
        os.close(each)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vde_plug vde://", ["vde_plug", "vde://"]),
        ("ssh host 'vde_plug x'", ["ssh", "host", "vde_plug x"]),
        ('"ssh host vde_plug"', ["ssh", "host", "vde_plug"]),
        (r"a\ b \"c", ["a b", '"c']),
        ("a 'b c'd", ["a", "b cd"]),
    ],
)
def test_command_lines(text: str, words: list[str]) -> None:
    assert split_command(text) == words


@pytest.mark.parametrize(
    ("text", "reason", "place"),
    [
        ("", "expected a command", 0),
        ("  ", "expected a command", 0),
        ("a 'b", "no closing quotation", 2),
        ("a b\\", "no escaped character", 3),
    ],
)
def test_bad_command_lines(text: str, reason: str, place: int) -> None:
    with pytest.raises(VnlError, match=reason) as caught:
        CmdTransport(text)
    assert caught.value.position == place


async def test_frames_go_both_ways(pids: list[int]) -> None:
    """Through cat, which is a mirror."""
    async with opened("cat") as plug:
        assert isinstance(plug, abc.Plug)
        assert isinstance(plug, abc.SignalsRoom)
        assert plug.mtu == 9216
        for size in (14, 60, 1514, 9234):
            frame = os.urandom(size)
            assert plug.send(frame) == size
            assert await frame_from(plug) == frame
        pids.append(os.pidfd_open(pid_of(plug)))
    assert has_ended(pids[0])


def pid_of(plug: Any) -> int:
    """Return the process of a plug's program."""
    pid: int = plug._on_lost.__self__._child.pid
    return pid


async def test_a_full_way_is_refused_and_opens_again() -> None:
    frame = bytes(1514)
    async with opened("cat") as plug:
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                plug.send(frame)
                sent += 1
                await asyncio.sleep(0)
        for _ in range(sent):
            assert len(await frame_from(plug)) == len(frame)
        plug.send(FRAME)
        assert await frame_from(plug) == FRAME
        assert not plug.drops


async def test_a_pipe_never_holds_part_of_a_length(tmp_path: Path) -> None:
    """As vde_plug 4.0.1 needs it, which reads 9234 bytes at once."""
    program = tmp_path / "reader.py"
    program.write_text(
        textwrap.dedent("""
            import os, struct, sys
            left = 2000
            rest = 0  # bytes of the last frame that are still to come
            while left:
                data = os.read(0, 9234)
                at = rest
                while at < len(data):
                    if at + 2 > len(data):
                        sys.exit("part of a length")
                    at += 2 + struct.unpack_from(">H", data, at)[0]
                    left -= 1
                rest = at - len(data)
            os.write(1, struct.pack(">H", 14) + bytes(14))
            os.read(0, 1)
        """)
    )
    async with opened(f"{sys.executable} -S {program}") as plug:
        loop = asyncio.get_running_loop()
        sent = 0
        async with asyncio.timeout(PATIENCE):
            while sent < 2000:
                try:
                    plug.send(bytes(14 + sent * 37 % 1600))
                    sent += 1
                except BlockingIOError:
                    room = asyncio.Event()
                    loop.add_writer(plug.room_fileno(), room.set)
                    await room.wait()
                    loop.remove_writer(plug.room_fileno())
        assert await frame_from(plug) == bytes(14)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sh -c 'exit 7'", "sh has ended: exit status 7"),
        ("sh -c 'kill -9 $$'", "sh has ended: killed by SIGKILL"),
        ("sh -c 'kill -40 $$'", "sh has ended: killed by signal 40"),
        ("printf '\\377\\377'", "printf: a frame of 65535 bytes"),
    ],
)
async def test_how_it_ended(command: str, reason: str) -> None:
    async with opened(command) as plug:
        with pytest.raises(BrokenTransportError, match=reason):
            await frame_from(plug)


async def test_output_that_is_closed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_child.Child.when_ended, "__defaults__", (0.01,))
    async with opened("sh -c 'exec >&-; exec sleep 60'") as plug:
        with pytest.raises(BrokenTransportError, match="closed its output"):
            await frame_from(plug)


async def test_closed_while_waiting_for_the_end() -> None:
    async with opened("sh -c 'exec >&-; exec sleep 60'") as plug:
        async with asyncio.timeout(PATIENCE):
            while plug.has_channel:
                await asyncio.sleep(0.001)


async def test_there_is_no_such_program() -> None:
    with pytest.raises(BrokenTransportError) as caught:
        await CmdTransport("no-such-program x").open("me")
    assert caught.value.errno == errno.ENOENT
    assert "there is no program 'no-such-program'" in str(caught.value)
    with pytest.raises(BrokenTransportError) as caught:
        await CmdTransport("/etc/passwd").open("me")
    assert caught.value.errno == errno.EACCES


async def test_one_that_does_not_want_to_end_is_killed(
    monkeypatch: pytest.MonkeyPatch, pids: list[int]
) -> None:
    defaults = _child.Child.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "grace", 0.05)
    command = "sh -c 'trap \"\" TERM; cat; exec sleep 60'"
    async with opened(command) as plug:
        plug.send(FRAME)
        assert await frame_from(plug) == FRAME  # it has set its trap
        pids.append(os.pidfd_open(pid_of(plug)))
    assert has_ended(pids[0])


async def test_a_loop_that_ends_first() -> None:
    """The program is collected all the same, says the check around each test."""

    async def main() -> StreamPlug:
        return await CmdTransport("cat").open("me")

    plug = await asyncio.to_thread(asyncio.run, main())
    plug.close()


async def test_a_forked_child_lets_go() -> None:
    async with opened("cat") as plug:
        pid = os.fork()
        if pid == 0:
            try:
                plug.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        plug.send(FRAME)
        assert await frame_from(plug) == FRAME


async def test_the_program_sees_that_we_were_killed(pids: list[int]) -> None:
    code = textwrap.dedent("""
        import asyncio
        from aioioth_transports.cmd import CmdTransport

        async def main():
            plug = await CmdTransport("sh -c 'echo $$ >&2; exec cat'").open("me")
            await asyncio.sleep(60)

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as us:
        assert us.stderr is not None
        line = await asyncio.to_thread(us.stderr.readline)
        pids.append(os.pidfd_open(int(line)))
        us.send_signal(signal.SIGKILL)
    assert has_ended(pids[0])


# stream://-

MIRROR = """
import asyncio, os, sys
from aioioth_transports.stream import StreamTransport
{loop}

async def main():
    loop = asyncio.get_running_loop()
    plug = await StreamTransport("-").open("me")
    try:
        await StreamTransport("-").open("me")
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
    buffer = memoryview(bytearray(65554))
    over = loop.create_future()

    def mirror():
        try:
            while True:
                plug.send(bytes(buffer[: plug.recv_into(buffer)]))
        except BlockingIOError:
            pass
        except OSError as error:
            loop.remove_reader(plug.fileno())
            over.set_result(error)

    loop.add_reader(plug.fileno(), mirror)
    print(await over, file=sys.stderr)
    plug.close()
    print(os.get_blocking(0), os.get_blocking(1), file=sys.stderr)
    try:
        await StreamTransport("-").open("me")
    except OSError as error:
        print(error, file=sys.stderr)

{run}
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_standard_input_and_output(tmp_path: Path, loop: str) -> None:
    """Ours are the mirror, at the other end of a cmd://."""
    program, log = tmp_path / "mirror.py", tmp_path / "log"
    program.write_text(MIRROR.format(loop=f"import {loop}", run=f"{loop}.run(main())"))
    command = f"exec {sys.executable} -W error {program} 2>{log}"
    plug = await CmdTransport(f'sh -c "{command}"').open("me")
    for size in (14, 1514, 9234):
        frame = os.urandom(size)
        plug.send(frame)
        assert await frame_from(plug) == frame
    # The end of its input, without a signal.
    pidfd = os.pidfd_open(pid_of(plug))
    assert plug._channel is not None
    plug._channel.release(forked=False)
    assert await asyncio.to_thread(has_ended, pidfd)
    os.close(pidfd)
    plug.close()
    busy, end, blocking, again = log.read_text().splitlines()
    assert "another plug has this program's standard input and output" in busy
    assert "the other side has ended" in end
    assert blocking == "True True"
    assert "standard input has ended" in again


@pytest.mark.parametrize("stdin", ["/dev/null", "/etc/passwd"])
def test_standard_input_that_is_neither(stdin: str) -> None:
    code = textwrap.dedent("""
        import asyncio, sys
        from aioioth_transports.stream import StreamTransport
        try:
            asyncio.run(StreamTransport("-").open("me"))
        except OSError as error:
            print(error, file=sys.stderr)
    """)
    with Path(stdin).open() as file:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=file, capture_output=True, check=True
        )
    assert b"standard input must be a pipe or a socket" in done.stderr
