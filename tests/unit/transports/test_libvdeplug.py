"""Other schemes and ``slirp://``; most of it needs libvdeplug2 and its plug-ins."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioioth import _plugins, abc
from aioioth.errors import BrokenTransportError, HandshakeTimeoutError
from aioioth_transports import libvdeplug
from aioioth_transports.libvdeplug import LibvdeplugTransport, SlirpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aioioth_transports.libvdeplug import LibvdeplugPlug

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"
PATIENCE = 10
BUFFER = memoryview(bytearray(65554))

pytestmark = pytest.mark.usefixtures("_loop_is_content")

installed = pytest.mark.skipif(
    LibvdeplugTransport.why_not("hub") is not None, reason="libvdeplug2 is missing"
)


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, since the kernel takes 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="lv"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory, the only one where libraries are looked for."""
    monkeypatch.delenv("VDEPLUGIN_PATH", raising=False)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(libvdeplug, "_USUAL", (os.fspath(tmp_path),))
    monkeypatch.setattr(libvdeplug, "_CACHE", os.fspath(tmp_path / "cache"))
    return tmp_path


@asynccontextmanager
async def opened(vnl: str) -> AsyncIterator[LibvdeplugPlug]:
    plug = await LibvdeplugTransport(vnl).open("me")
    try:
        yield plug
    finally:
        plug.close()


async def ready(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    is_ready = asyncio.Event()
    loop.add_reader(descriptor, is_ready.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await is_ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def frame_from(plug: abc.Plug) -> bytes:
    await ready(plug.fileno())
    length = plug.recv_into(BUFFER)
    assert length is not None
    return bytes(BUFFER[:length])


# Which schemes there are


def test_no_library(places: Path) -> None:
    reason = LibvdeplugTransport.why_not("vxvdex")
    assert reason is not None
    assert "not installed. Debian: apt install libvdeplug2" in reason
    reason = SlirpTransport.why_not("slirp")
    assert reason is not None
    assert "apt install libvdeplug2 libvdeplug-slirp" in reason


async def test_slirp_without_the_library(places: Path) -> None:
    with pytest.raises(BrokenTransportError, match="apt install libvdeplug2") as it:
        await SlirpTransport("").open("me")
    assert it.value.errno == errno.EPROTONOSUPPORT


@pytest.mark.parametrize("where", ["", "vdeplug"])
def test_plug_ins_beside_the_library(places: Path, where: str) -> None:
    (places / "libvdeplug.so.2").touch()
    assert LibvdeplugTransport.why_not("x") is not None
    (places / where).mkdir(exist_ok=True)
    (places / where / "libvdeplug_x.so").touch()
    assert LibvdeplugTransport.why_not("x") is None
    assert LibvdeplugTransport.why_not("y") is not None


def test_the_linkers_cache(places: Path) -> None:
    library = places / "far"
    library.mkdir()
    (library / "libvdeplug.so.2").touch()
    (library / "libvdeplug_x.so").touch()
    names = b"\0".join(os.fsencode(each) for each in library.iterdir())
    (places / "cache").write_bytes(b"glibc-ld.so.cache\0" + names + b"\0")
    assert LibvdeplugTransport.why_not("x") is None


def test_only_where_the_environment_says(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "libvdeplug.so.2").touch()
    (places / "libvdeplug_x.so").touch()
    (places / "own").mkdir()
    (places / "own" / "libvdeplug_y.so").touch()
    monkeypatch.setenv("VDEPLUGIN_PATH", f"/none:{places}/own")
    assert LibvdeplugTransport.why_not("x") is not None
    assert LibvdeplugTransport.why_not("y") is None
    monkeypatch.delenv("VDEPLUGIN_PATH")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{places}/own")
    assert LibvdeplugTransport.why_not("y") is None


@pytest.mark.parametrize("scheme", ["", "../own/x", "a/b", ".", "a b", "x\0"])
def test_a_scheme_is_no_path(places: Path, scheme: str) -> None:
    (places / "libvdeplug.so.2").touch()
    reason = LibvdeplugTransport.why_not(scheme)
    assert reason is not None
    assert "no plug-in" in reason


@installed
def test_the_names_that_the_system_has() -> None:
    assert LibvdeplugTransport.why_not("vde") is None
    assert LibvdeplugTransport.why_not("no-such") is not None


@installed
async def test_a_scheme_that_only_the_library_knows(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Debian's has none that we lack; so a copy of its hub is one."""
    library = libvdeplug._find_library()
    shutil.copy(f"{library}/vdeplug/libvdeplug_hub.so", home / "libvdeplug_nub.so")
    monkeypatch.setenv("VDEPLUGIN_PATH", f"{home}:{library}/vdeplug")
    transport = _plugins.load_transport("nub")(f"{home}/hub")
    assert isinstance(transport, abc.FrameTransport)
    plug = await transport.open("me")
    async with opened(f"vde://{home}/hub") as other:
        plug.send(FRAME)
        assert await frame_from(other) == FRAME
    plug.close()


# Networks


@installed
async def test_frames_go_both_ways(home: Path) -> None:
    """The hub is in the first process, and its plug is one of its ports."""
    async with (
        opened(f"hub://{home}/hub") as left,
        opened(f"vde://{home}/hub") as right,
    ):
        for plug in left, right:
            assert isinstance(plug, abc.Plug)
            assert plug.mtu == 9216
            with pytest.raises(BlockingIOError):
                plug.recv_into(BUFFER)
        for size in (14, 1514, 9234):
            frame = os.urandom(size)
            assert left.send(frame) == size
            assert await frame_from(right) == frame
            assert right.send(frame) == size
            assert await frame_from(left) == frame
        left.send(bytes(9235))  # lost there
        left.send(FRAME)
        assert await frame_from(right) == FRAME


@installed
async def test_the_end_is_told_and_nothing_is_left(home: Path) -> None:
    async with opened(f"hub://{home}/hub") as left:
        async with opened(f"vde://{home}/hub") as right:
            left.close()
            await ready(right.hangup_fileno())
            with pytest.raises(OSError):
                while True:
                    right.send(FRAME)
                    await asyncio.sleep(0.001)
    assert left.fileno() == left.hangup_fileno() == -1
    async with asyncio.timeout(PATIENCE):
        while os.listdir(home):
            await asyncio.sleep(0.001)


@installed
async def test_a_stuck_network_holds_nobody_up(home: Path) -> None:
    async with opened(f"hub://{home}/hub") as plug:
        os.kill(plug._child.pid, signal.SIGSTOP)
        with pytest.raises(BlockingIOError):
            while True:
                plug.send(bytes(1514))
        os.kill(plug._child.pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE):
            while not select.select([], [plug.fileno()], [], 0)[1]:
                await asyncio.sleep(0.001)
        plug.send(FRAME)
        os.kill(plug._child.pid, signal.SIGSTOP)
    # It is killed, says the check around each test.


@installed
async def test_a_process_that_is_killed(home: Path) -> None:
    async with opened(f"hub://{home}/hub") as plug:
        os.kill(plug._child.pid, signal.SIGKILL)
        await ready(plug.hangup_fileno())
        with pytest.raises(ConnectionRefusedError):
            plug.send(FRAME)


@installed
async def test_a_reader_that_is_slow_loses_nothing(home: Path) -> None:
    """The process waits for us, and so does everybody up to the sender."""
    async with (
        opened(f"hub://{home}/hub") as left,
        opened(f"vde://{home}/hub") as right,
    ):
        sent = refused = 0
        async with asyncio.timeout(PATIENCE):
            # All that there is room for on the way.
            while refused < 50:
                try:
                    right.send(FRAME + bytes(8000) + sent.to_bytes(2))
                except BlockingIOError:
                    refused += 1
                    await asyncio.sleep(0.001)
                else:
                    sent += 1
                    refused = 0
        for number in range(sent):
            assert (await frame_from(left))[-2:] == number.to_bytes(2)
        left.send(FRAME)
        assert await frame_from(right) == FRAME


@installed
@pytest.mark.parametrize(
    ("vnl", "reason", "code"),
    [
        ("vde:///nowhere", "libvdeplug: No such file or directory", errno.ENOENT),
        ("hub:///tmp/x[colour=red]", "libvdeplug: Invalid argument; .*colour", 22),
        ("no-such://x", "no plug-in", errno.EPROTONOSUPPORT),
    ],
)
async def test_what_the_library_refuses(vnl: str, reason: str, code: int) -> None:
    with pytest.raises(BrokenTransportError, match=reason) as caught:
        await LibvdeplugTransport(vnl).open("me")
    assert caught.value.errno == code
    assert caught.value.vnl == vnl


@installed
async def test_a_network_that_does_not_open(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvdeplug, "_OPEN_SECONDS", 0)
    with pytest.raises(HandshakeTimeoutError, match="did not open it within 0 s"):
        await LibvdeplugTransport(f"hub://{home}/hub").open("me")


@installed
async def test_a_process_that_crashes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = home / "helper.py"
    program.write_text("import os; os.abort()")
    monkeypatch.setattr(libvdeplug, "_HELPER", os.fspath(program))
    with pytest.raises(BrokenTransportError, match="has ended: killed by SIGABRT"):
        await LibvdeplugTransport("null://").open("me")


@installed
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_cancelled(home: Path, turns: int) -> None:
    task = asyncio.create_task(LibvdeplugTransport(f"hub://{home}/hub").open("me"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@installed
async def test_a_forked_child_lets_go(home: Path) -> None:
    async with (
        opened(f"hub://{home}/hub") as left,
        opened(f"vde://{home}/hub") as right,
    ):
        pid = os.fork()
        if pid == 0:
            try:
                left.close()
                right.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        left.send(FRAME)
        assert await frame_from(right) == FRAME


# slirp


@pytest.mark.skipif(
    SlirpTransport.why_not("slirp") is not None, reason="libvdeplug-slirp is missing"
)
async def test_slirp_answers() -> None:
    mac = bytes.fromhex("020000000001")
    question = bytes.fromhex("0806 0001 0800 06 04 0001") + mac + bytes([10, 0, 2, 15])
    question += bytes(6) + bytes([10, 0, 2, 2])
    plug = await SlirpTransport("").open("me")
    assert plug.mtu == 1500
    plug.send(b"\xff" * 6 + mac + question)
    while (answer := await frame_from(plug))[12:14] != b"\x08\x06":
        pass
    assert answer[28:32] == bytes([10, 0, 2, 2])
    plug.close()
    with pytest.raises(BrokenTransportError, match=r"Invalid argument; .*no-such"):
        await SlirpTransport("/no-such=3").open("me")


@pytest.mark.parametrize(
    ("address", "mtu"), [("", 1500), ("/verbose", 1500), ("/mtu=9000/mru=9000", 9216)]
)
def test_slirps_mtu(address: str, mtu: int) -> None:
    assert SlirpTransport(address)._mtu == mtu
