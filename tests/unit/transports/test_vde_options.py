"""``vde://`` options, and what they make of the request: a switch is played here."""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import shutil
import socket
import stat
import struct
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioioth import abc
from aioioth.errors import (
    BrokenTransportError,
    HandshakeTimeoutError,
    VnlError,
)
from aioioth_transports import vde
from aioioth_transports.vde import VdeTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

FRAME = b"\xff" * 6 + bytes.fromhex("020000000001 88b5") + b"hello"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, since the kernel takes 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="sw"))
    yield made
    shutil.rmtree(made)


class Switch:
    """Plays the part of vde_switch, for one client.

    Args:
        directory: Where its sockets are.
        data_name: Of its data socket.
        answer: What it answers; None for what a switch answers.
    """

    def __init__(self, directory: Path, data_name: str, answer: bytes | None) -> None:
        self.request = b""
        self.client_mode: int | None = None
        self.client_group: int | None = None
        self.data_path = directory / data_name
        self.data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.data.setblocking(False)
        self.data.bind(os.fspath(self.data_path))
        self._answer = answer
        self._writer: asyncio.StreamWriter | None = None

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writer = writer
        self.request = await reader.read(256)  # as vde_switch does
        answer = self._answer
        if answer is None:
            try:
                self._connect(self.request[14:122])
            except OSError:
                answer = b""
            else:
                path = os.fsencode(self.data_path)
                answer = struct.pack("=H108s", socket.AF_UNIX, path)
        writer.write(answer)
        if not answer:
            self.hang_up()

    def _connect(self, name: bytes) -> None:
        if name[0]:
            path = Path(os.fsdecode(name.split(b"\0")[0]))
            self.client_mode = stat.S_IMODE(path.stat().st_mode)
            self.client_group = path.stat().st_gid
            self.data.connect(os.fspath(path))
        else:
            self.data.connect(name)  # as vde_switch: all 108 bytes of it

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def close(self) -> None:
        self.hang_up()
        self.data.close()


@asynccontextmanager
async def a_switch(
    directory: Path,
    *,
    data_name: str = "001.5",
    answer: bytes | None = None,
    control: str = "ctl",
) -> AsyncIterator[Switch]:
    switch = Switch(directory, data_name, answer)
    server = await asyncio.start_unix_server(switch.serve, directory / control)
    async with server:
        try:
            yield switch
        finally:
            switch.close()  # first: since Python 3.12 the server waits for it
            await asyncio.sleep(0)


def kind_of(request: bytes) -> int:
    kind: int = struct.unpack_from("=III", request)[2]
    return kind


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("", 0),
        ("[]", 0),
        ("[port=0]", 1),
        ("[0]", 1),
        ("[port=5]", 5 << 8),
        ("[5]", 5 << 8),
        ("[5/port=6]", 6 << 8),
        ("[port=5/port=6]", 6 << 8),
        ("[port=16777215]", 0xFFFFFF << 8),
        ("['port'=%35]", 5 << 8),
        ("[5/lab/6]", 6 << 8),
    ],
)
async def test_the_port(directory: Path, options: str, kind: int) -> None:
    async with a_switch(directory) as switch:
        plug = await VdeTransport(f"{directory}{options}").open("me")
        plug.close()
    assert kind_of(switch.request) == kind


async def test_a_plain_request(directory: Path) -> None:
    """With an abstract name nothing is left behind, whatever happens."""
    async with a_switch(directory) as switch:
        plug = await VdeTransport(f"{directory}").open("aioioth web")
        assert {path.name for path in directory.iterdir()} == {"ctl", "001.5"}
        plug.close()
    description = f"aioioth web user={os.geteuid()} pid={os.getpid()}"
    assert switch.request[122:] == description.encode()
    assert switch.request[:14] == struct.pack("=IIIH", 0xFEEDFACE, 3, 0, socket.AF_UNIX)
    assert switch.request[14] == 0


async def test_a_long_label_does_not_hide_who_we_are(directory: Path) -> None:
    async with a_switch(directory) as switch:
        plug = await VdeTransport(f"{directory}").open("x" * 500)
        plug.close()
    description = switch.request[122:]
    assert len(description) <= 127
    assert description.endswith(f" pid={os.getpid()}".encode())


async def test_frames_go_both_ways(directory: Path) -> None:
    async with a_switch(directory) as switch:
        plug = await VdeTransport(f"{directory}").open("me")
        assert isinstance(plug, abc.Plug)
        buffer = memoryview(bytearray(2000))
        with pytest.raises(BlockingIOError):
            plug.recv_into(buffer)
        assert plug.send(FRAME) == len(FRAME)
        assert switch.data.recv(2000) == FRAME
        switch.data.send(FRAME)
        assert plug.recv_into(buffer) == len(FRAME)
        assert bytes(buffer[: len(FRAME)]) == FRAME
        numbers = plug.fileno(), plug.hangup_fileno()
        plug.close()
        plug.close()
        assert (plug.fileno(), plug.hangup_fileno()) == (-1, -1)
        for number in numbers:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)


@pytest.mark.parametrize(
    ("data_name", "mtu"), [("001.5", 1500), ("1024.12", 1500), ("fd7", 9216)]
)
async def test_the_mtu_is_what_the_switch_carries(
    directory: Path, data_name: str, mtu: int
) -> None:
    async with a_switch(directory, data_name=data_name):
        plug = await VdeTransport(f"{directory}").open("me")
        assert plug.mtu == mtu
        plug.close()


@pytest.mark.parametrize("options", ["[portgroup=lab]", "[lab]"])
async def test_a_port_group_is_a_socket_of_its_own(
    directory: Path, options: str
) -> None:
    async with a_switch(directory, control="lab") as switch:
        plug = await VdeTransport(f"{directory}{options}").open("me")
        plug.close()
    assert kind_of(switch.request) == 0


async def test_a_port_group_that_is_not_there(directory: Path) -> None:
    async with a_switch(directory):
        with pytest.raises(
            BrokenTransportError, match="no port group socket 'lab'"
        ) as caught:
            await VdeTransport(f"{directory}[lab]").open("me")
    assert caught.value.errno == errno.ENOENT


async def test_the_mode_is_the_data_sockets(directory: Path) -> None:
    async with a_switch(directory) as switch:
        plug = await VdeTransport(f"{directory}[mode=0640]").open("me")
        assert switch.client_mode == 0o640
        assert stat.S_IMODE(switch.data_path.stat().st_mode) == 0o640
        # Only the switch needed the name.
        assert {path.name for path in directory.iterdir()} == {"ctl", "001.5"}
        plug.send(FRAME)
        assert switch.data.recv(2000) == FRAME
        plug.close()


@pytest.mark.parametrize("port", ["x", "-1", "+1", "1.5", "", "16777216", "²"])
def test_a_bad_port(port: str) -> None:
    with pytest.raises(VnlError) as caught:
        VdeTransport(f"/tmp/sw[port={port}]")
    assert caught.value.reason == "port: expected a number from 0 to 16777215"
    assert caught.value.position == len("/tmp/sw[port=")


@pytest.mark.parametrize("port", ["-1", "+1", "16777216", "²"])
def test_a_bad_port_without_its_name(port: str) -> None:
    with pytest.raises(VnlError) as caught:
        VdeTransport(f"/tmp/sw[{port}]")
    assert caught.value.reason == "expected a number from 0 to 16777215"
    assert caught.value.position == len("/tmp/sw[")


@pytest.mark.parametrize("mode", ["8", "0o660", "rw", "", "-1", "77777", "0x1"])
def test_a_bad_mode(mode: str) -> None:
    with pytest.raises(VnlError) as caught:
        VdeTransport(f"/tmp/sw[mode={mode}]")
    assert caught.value.reason == "mode: expected octal permissions, such as 0660"
    assert caught.value.position == len("/tmp/sw[mode=")


@pytest.mark.parametrize("name", [".", "..", "a%2Fb", "'../ctl'", "%2ftmp", "''"])
@pytest.mark.parametrize("option", ["portgroup=", ""])
def test_a_bad_port_group(option: str, name: str) -> None:
    """It is the name of a socket in the switch's directory."""
    with pytest.raises(VnlError, match="port group: expected a file's name") as caught:
        VdeTransport(f"/tmp/sw[{option}{name}]")
    assert caught.value.position == len(f"/tmp/sw[{option}")


@pytest.mark.parametrize("name", ["no-such-group", "", "%FF", "x" * 10_000])
def test_a_group_that_is_not_there(name: str) -> None:
    with pytest.raises(VnlError, match="group: this system has no group") as caught:
        VdeTransport(f"/tmp/sw[group={name}]")
    assert caught.value.position == len("/tmp/sw[group=")


@pytest.mark.parametrize(
    ("address", "position", "reason"),
    [
        ("/tmp/sw[colour=red]", 8, "no option 'colour'; known: port, portgroup, group"),
        ("/tmp/sw[port]", 12, "port needs a value"),
        ("/tmp/sw[port=1", 7, "expected a ']' for this '['"),
        ("/tmp/sw[port=1]/x", 15, "nothing may follow the options"),
        ("/tmp/it's", 7, "expected another ' for this one"),
    ],
)
def test_bad_options(address: str, position: int, reason: str) -> None:
    with pytest.raises(VnlError) as caught:
        VdeTransport(address)
    assert reason in caught.value.reason
    assert caught.value.position == position


async def test_a_directory_with_brackets_and_quotes(directory: Path) -> None:
    odd = directory / "it's [1]"
    odd.mkdir()
    address = f"{directory}/it\\'s '[1]'[port=5]"
    async with a_switch(odd) as switch:
        plug = await VdeTransport(address).open("me")
        plug.close()
    assert kind_of(switch.request) == 5 << 8


async def test_our_own_group(directory: Path) -> None:
    """Who else may use our data socket: this group, as far as `mode` allows."""
    try:
        name = grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        pytest.skip("our group has no name")
    for options, mode in (
        (f"[group={name}]", 0o770),
        (f"[group={name}/mode=640]", 0o640),
    ):
        async with a_switch(directory) as switch:
            plug = await VdeTransport(f"{directory}{options}").open("me")
            assert (switch.client_mode, switch.client_group) == (mode, os.getegid())
            plug.close()
        switch.data_path.unlink()


async def test_a_directory_that_is_not_there(directory: Path) -> None:
    with pytest.raises(BrokenTransportError) as caught:
        await VdeTransport(f"{directory}/none").open("me")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.vnl == f"vde://{directory}/none"
    assert f"Start one: vde_switch -d -s {directory}/none" in str(caught.value)


async def test_a_file_is_no_directory(directory: Path) -> None:
    (directory / "file").touch()
    with pytest.raises(BrokenTransportError, match="not the directory of") as caught:
        await VdeTransport(f"{directory}/file").open("me")
    assert caught.value.errno == errno.ENOTDIR


async def test_a_directory_without_a_switch(directory: Path) -> None:
    with pytest.raises(BrokenTransportError, match="no control socket 'ctl'"):
        await VdeTransport(f"{directory}").open("me")


async def test_a_switch_that_has_ended(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abandoned:
        abandoned.bind(os.fspath(directory / "ctl"))
    with pytest.raises(BrokenTransportError, match="the switch has ended") as caught:
        await VdeTransport(f"{directory}").open("me")
    assert caught.value.errno == errno.ECONNREFUSED


async def test_a_path_that_is_too_long(directory: Path) -> None:
    deep = directory / ("x" * 100)
    deep.mkdir()
    with pytest.raises(BrokenTransportError):
        await VdeTransport(f"{deep}").open("me")


async def test_no_directory_is_the_usual_ones(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = (directory / "first", directory / "second")
    monkeypatch.setattr(vde, "_DEFAULTS", usual)
    with pytest.raises(BrokenTransportError) as caught:
        await VdeTransport("").open("me")
    assert f"{usual[0]} or {usual[1]}" in str(caught.value)
    usual[1].mkdir()
    async with a_switch(usual[1]) as switch:
        plug = await VdeTransport("[port=3]").open("me")
        plug.close()
    assert kind_of(switch.request) == 3 << 8


@pytest.mark.parametrize("options", ["", "[mode=0600]"])
async def test_a_switch_that_refuses(directory: Path, options: str) -> None:
    async with a_switch(directory, answer=b""):
        with pytest.raises(
            BrokenTransportError, match="hung up without an answer"
        ) as it:
            await VdeTransport(f"{directory}{options}").open("me")
        assert it.value.errno == errno.ECONNREFUSED
        assert {path.name for path in directory.iterdir()} == {"ctl", "001.5"}


async def test_a_switch_that_refuses_a_port(directory: Path) -> None:
    async with a_switch(directory, answer=b""):
        with pytest.raises(BrokenTransportError, match="an answer: port 7 is taken"):
            await VdeTransport(f"{directory}[7]").open("me")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", bytes(110), b"\2\0" + bytes(108)]
)
async def test_what_does_not_speak_vde(directory: Path, answer: bytes) -> None:
    async with a_switch(directory, answer=answer):
        with pytest.raises(BrokenTransportError, match="does not speak VDE") as it:
            await VdeTransport(f"{directory}").open("me")
        assert it.value.errno == errno.EPROTO


async def test_a_data_socket_that_is_not_there(directory: Path) -> None:
    answer = struct.pack("=H108s", socket.AF_UNIX, os.fsencode(directory / "gone"))
    async with a_switch(directory, answer=answer):
        with pytest.raises(BrokenTransportError, match="cannot reach the switch's"):
            await VdeTransport(f"{directory}").open("me")


@pytest.mark.parametrize("options", ["", "[7]", "[mode=0600]"])
async def test_a_switch_that_is_silent(
    directory: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setattr(vde, "_HANDSHAKE_SECONDS", 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(os.fspath(directory / "ctl"))
        silent.listen()
        with pytest.raises(HandshakeTimeoutError, match="did not answer") as caught:
            await VdeTransport(f"{directory}{options}").open("me")
    assert caught.value.errno == errno.ETIMEDOUT
    assert ("port 7 does not exist" in str(caught.value)) == (options == "[7]")
    assert os.listdir(directory) == ["ctl"]


@pytest.mark.parametrize("options", ["", "[mode=0600]"])
async def test_cancelled_during_the_handshake(directory: Path, options: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(os.fspath(directory / "ctl"))
        silent.listen()
        opening = asyncio.create_task(VdeTransport(f"{directory}{options}").open("me"))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert os.listdir(directory) == ["ctl"]


async def test_the_control_socket_tells_when_the_switch_ends(directory: Path) -> None:
    async with a_switch(directory) as switch:
        plug = await VdeTransport(f"{directory}").open("me")
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(plug.hangup_fileno(), ended.set)
        await asyncio.sleep(0)
        assert not ended.is_set()
        switch.close()
        async with asyncio.timeout(10):
            await ended.wait()
        loop.remove_reader(plug.hangup_fileno())
        with pytest.raises(ConnectionRefusedError):
            plug.send(FRAME)
        plug.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
async def test_a_directory_that_is_not_ours_to_see(directory: Path) -> None:
    locked = directory / "locked"
    locked.mkdir(mode=0)
    with pytest.raises(BrokenTransportError, match="you may not look into") as it:
        await VdeTransport(f"{locked}/sw").open("me")
    locked.chmod(0o700)  # so that it can be removed
    assert it.value.errno == errno.EACCES
