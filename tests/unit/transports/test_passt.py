"""``passt://`` without passt: a socket or a program plays it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioioth import abc
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError, VnlError
from aioioth.wire.vdestream import QEMU
from aioioth_transports import passt
from aioioth_transports.passt import PasstTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
PATIENCE = 10
BUFFER = memoryview(bytearray(65554))

pytestmark = pytest.mark.usefixtures("_loop_is_content")


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, since the kernel takes 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="pa"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def program(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program in passt's place; it knows its socket as ``sock``."""

    def replace(text: str) -> None:
        file = home / "passt"
        begin = (
            f"#!{sys.executable} -S\nimport os, socket, sys, time\n"
            "sock = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]))\n"
        )
        file.write_text(begin + textwrap.dedent(text))
        file.chmod(0o700)
        monkeypatch.setenv("PATH", os.fspath(home), prepend=os.pathsep)

    return replace


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


async def test_one_that_runs(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{home}/s")
        server.listen()
        plug = await PasstTransport(f"{home}/s").open("me")
        assert isinstance(plug, abc.Plug)
        assert plug.mtu == 65520
        peer, _ = server.accept()
        with peer:
            for size in (14, 65534):
                frame = os.urandom(size)
                peer.sendall(QEMU.pack(frame))
                assert await frame_from(plug) == frame
            plug.send(FRAME)
            assert peer.recv(100) == QEMU.pack(FRAME)
        with pytest.raises(BrokenTransportError):
            await frame_from(plug)
        plug.close()


async def test_none_that_runs(home: Path) -> None:
    with pytest.raises(BrokenTransportError, match="Start one: passt -s /") as caught:
        await PasstTransport(f"{home}/s").open("me")
    assert caught.value.errno == errno.ENOENT


async def test_one_that_is_started(program: Callable[[str], None]) -> None:
    program("""
        sock.recv(1000)
        sock.sendall(b"\\0\\0\\0\\x0e" + b" ".join(map(str.encode, sys.argv))[-14:])
        while data := sock.recv(1000):
            sock.sendall(data)
    """)
    plug = await PasstTransport("--address '10.9.9.9'").open("me")
    assert await frame_from(plug) == b"dress 10.9.9.9"
    plug.send(FRAME)
    assert await frame_from(plug) == FRAME
    plug.close()


async def test_one_that_ends_at_once(program: Callable[[str], None]) -> None:
    program("sys.exit(3)")
    with pytest.raises(BrokenTransportError, match=r"ended: exit status 3; .* default"):
        await PasstTransport("").open("me")


async def test_one_that_ends_later(program: Callable[[str], None]) -> None:
    program("sock.recv(1000); sock.recv(1000); sys.exit(3)")
    plug = await PasstTransport("").open("me")
    plug.send(FRAME)
    with pytest.raises(BrokenTransportError, match="passt has ended: exit status 3"):
        await frame_from(plug)
    plug.close()


async def test_one_that_is_stuck(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("time.sleep(60)")
    monkeypatch.setattr(passt, "_OPEN_SECONDS", 0.1)
    with pytest.raises(HandshakeTimeoutError, match="did not answer"):
        await PasstTransport("").open("me")


async def test_it_is_not_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(home))
    with pytest.raises(BrokenTransportError, match="no program 'passt': install it"):
        await PasstTransport("").open("me")


def test_a_bad_argument() -> None:
    with pytest.raises(VnlError, match="no closing quotation"):
        PasstTransport("--address '10")


async def test_cancelled(program: Callable[[str], None]) -> None:
    program("time.sleep(60)")
    task = asyncio.create_task(PasstTransport("").open("me"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
