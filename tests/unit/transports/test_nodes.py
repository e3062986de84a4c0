"""``switch://``, ``hub://``, ``multi://`` and ``bonding://``; `vde://` joins them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pwd
import stat
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioioth import abc
from aioioth.errors import BrokenTransportError, ConfigurationError
from aioioth.networks import find_network
from aioioth.switch import Switch
from aioioth.testing import cancel_everywhere, no_leaks
from aioioth_transports import nodes
from aioioth_transports.nodes import (
    BondingTransport,
    HubTransport,
    MultiTransport,
    NodeTransport,
    SwitchTransport,
)
from aioioth_transports.vde import VdeTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.usefixtures("_loop_is_content")

A, B, C = (bytes.fromhex(f"02000000000{digit}") for digit in "abc")
EVERYBODY = b"\xff" * 6


def frame(to: bytes, by: bytes, payload: bytes = bytes(50)) -> bytes:
    return to + by + b"\x88\xb5" + payload


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw") as made:
        yield Path(made)


@pytest.fixture
def path(home: Path) -> Path:
    return home / "sw"


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.001)


def received(plug: abc.Plug) -> list[bytes]:
    buffer = memoryview(bytearray(65554))
    frames: list[bytes] = []
    while True:
        try:
            length = plug.recv_into(buffer)
        except BlockingIOError:
            return frames
        assert length is not None
        frames.append(bytes(buffer[:length]))


async def next_frame(plug: abc.Plug) -> bytes:
    frames: list[bytes] = []

    def look() -> bool:
        frames.extend(received(plug))
        return bool(frames)

    await until(look)
    [one] = frames
    return one


@contextlib.asynccontextmanager
async def plugs(*transports: abc.FrameTransport) -> AsyncIterator[list[abc.Plug]]:
    opened = [await transport.open("a test") for transport in transports]
    try:
        yield opened
    finally:
        for plug in opened:
            plug.close()


async def test_it_is_what_plug_ins_are(path: Path) -> None:
    transport = SwitchTransport(f"{path}")
    assert isinstance(transport, abc.FrameTransport)
    assert not path.exists()
    async with plugs(transport) as [plug]:
        assert isinstance(plug, abc.Plug)
        assert isinstance(plug, abc.CountsDrops)
        assert plug.mtu == 9216
        assert plug.hangup_fileno() == -1
        plug.close()
        assert plug.fileno() == -1
        assert not path.exists()


@pytest.mark.parametrize("scheme", ["switch", "hub", "multi", "bonding"])
def test_the_schemes(path: Path, scheme: str) -> None:
    found = find_network(f"{scheme}://{path}[mode=0660]")
    assert isinstance(found.transport, NodeTransport)
    assert found.transport._forwarding == scheme


async def test_switch(path: Path) -> None:
    vde = VdeTransport(f"{path}")
    async with plugs(SwitchTransport(f"{path}"), vde, vde) as [local, one, two]:
        one.send(frame(EVERYBODY, A))
        assert await next_frame(local) == await next_frame(two) == frame(EVERYBODY, A)
        local.send(frame(A, C))
        assert await next_frame(one) == frame(A, C)
        one.send(frame(C, A))
        assert await next_frame(local) == frame(C, A)
        assert received(two) == []


async def test_hub(path: Path) -> None:
    vde = VdeTransport(f"{path}")
    async with plugs(HubTransport(f"{path}"), vde, vde) as [local, one, two]:
        one.send(frame(EVERYBODY, A))
        assert await next_frame(local) == await next_frame(two) == frame(EVERYBODY, A)
        local.send(frame(A, C))
        assert await next_frame(one) == await next_frame(two) == frame(A, C)


async def test_multi(path: Path) -> None:
    vde = VdeTransport(f"{path}")
    async with plugs(MultiTransport(f"{path}"), vde, vde) as [local, one, two]:
        one.send(frame(EVERYBODY, A))
        assert await next_frame(local) == frame(EVERYBODY, A)
        local.send(frame(A, C))
        assert await next_frame(one) == await next_frame(two) == frame(A, C)


async def test_bonding(path: Path) -> None:
    vde = VdeTransport(f"{path}")
    async with plugs(BondingTransport(f"{path}"), vde, vde) as [local, one, two]:
        one.send(frame(EVERYBODY, A))
        assert await next_frame(local) == frame(EVERYBODY, A)
        for number in range(4):
            local.send(frame(A, C, bytes([number]) * 50))
        seen = [[data[14] for data in received(plug)] for plug in (one, two)]
        assert sorted(seen) == [[0, 2], [1, 3]]


# Options


async def test_permissions(path: Path) -> None:
    async with plugs(SwitchTransport(f"{path}[mode=0660/dirmode=0750]")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750
        assert stat.S_IMODE((path / "ctl").stat().st_mode) == 0o660
    async with plugs(HubTransport(f"{path}")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "ctl").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a group that is not ours")
async def test_a_group(path: Path) -> None:
    async with plugs(MultiTransport(f"{path}[mode=0660/grp=daemon]")):
        assert path.stat().st_gid == (path / "ctl").stat().st_gid == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o2770


async def test_the_size_of_the_table(path: Path) -> None:
    transport = SwitchTransport(f"{path}[hashsize=1/hashseed=7/expiretime=10]")
    async with plugs(transport) as [plug]:
        plug.send(frame(EVERYBODY, A))
        plug.send(frame(EVERYBODY, B))
        assert [each.mac[-2:] for each in transport._switch.mac_table] == ["0a"]


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (SwitchTransport, "[mode=rw]", "mode: expected octal permissions"),
        (SwitchTransport, "[hashsize=0]", "hashsize: expected a number from 1"),
        (SwitchTransport, "[hashseed=x]", "hashseed: expected a number from 0"),
        (SwitchTransport, "[expiretime=0]", "expiretime: expected a number from 1"),
        (SwitchTransport, "[grp=nobody-at-all]", "no group 'nobody-at-all'"),
        (HubTransport, "[hashsize=5]", "no option 'hashsize'; known: mode, dirmode,"),
        (HubTransport, "[0600]", "no option '0600'"),
        (HubTransport, "x" * 100, "107 bytes; at most 97"),
    ],
)
def test_options_that_cannot_be(
    path: Path, made: type[NodeTransport], options: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        made(f"{path}{options}")
    assert "^" in str(caught.value)


# No directory


@pytest.fixture
def default(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that no directory means; not the user's own."""
    found = Path(nodes._default_directory())
    assert found == Path("/tmp", found.name)
    monkeypatch.setattr(nodes, "_default_directory", lambda: str(home / found.name))
    return home / found.name


async def test_no_directory_is_the_users(default: Path) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert default.name == f"vdenode_{user}"
    async with plugs(SwitchTransport("")):
        assert (default / "ctl").is_socket()


async def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 987654)
    assert nodes._default_directory() == "/tmp/vdenode_u987654"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a directory of another's")
async def test_a_trap_is_not_walked_into(default: Path) -> None:
    default.mkdir()
    os.chown(default, 1234, -1)
    with pytest.raises(BrokenTransportError, match="belongs to somebody else"):
        await SwitchTransport("").open("me")
    assert list(default.iterdir()) == []


# Sharing


async def test_the_same_directory_is_the_same_node(path: Path, home: Path) -> None:
    (home / "link").symlink_to(home)
    first, second = SwitchTransport(f"{path}"), SwitchTransport(f"{home}/link/sw")
    async with plugs(first, second) as [one, two]:
        one.send(frame(EVERYBODY, A))
        assert received(two) == [frame(EVERYBODY, A)]
        one.close()
        assert path.exists()
        async with plugs(VdeTransport(f"{path}")) as [outside]:
            two.send(frame(EVERYBODY, B))
            assert await next_frame(outside) == frame(EVERYBODY, B)
        two.close()
        two.close()
        assert not path.exists()
        assert nodes._nodes == {}
    async with plugs(second):
        assert path.exists()


@pytest.mark.parametrize(
    "other", [HubTransport, lambda address: SwitchTransport(f"{address}[mode=0666]")]
)
async def test_nobody_shares_what_is_not_the_same(path: Path, other: Any) -> None:
    async with plugs(SwitchTransport(f"{path}")):
        with pytest.raises(BrokenTransportError, match="with other options") as caught:
            await other(f"{path}").open("me")
        assert caught.value.errno == errno.EBUSY
        assert path.exists()


async def test_a_switch_of_somebody_elses(path: Path) -> None:
    async with Switch(path):
        message = f"switch://{path}: a switch is running there. Join it with vde://"
        with pytest.raises(BrokenTransportError, match=message):
            await SwitchTransport(f"{path}").open("me")
        assert path.exists()


async def test_another_loop_joins_as_vde(path: Path) -> None:
    async def elsewhere() -> None:
        with pytest.raises(BrokenTransportError, match="another event loop"):
            await SwitchTransport(f"{path}").open("me")
        async with plugs(VdeTransport(f"{path}")) as [plug]:
            plug.send(frame(EVERYBODY, A))

    async with plugs(SwitchTransport(f"{path}")) as [local]:
        await asyncio.to_thread(asyncio.run, elsewhere())
        await asyncio.get_running_loop().shutdown_default_executor()
        assert await next_frame(local) == frame(EVERYBODY, A)


def test_a_loop_that_ends_first(path: Path) -> None:
    transport = SwitchTransport(f"{path}")
    left: list[abc.Plug] = []

    async def main() -> None:
        left.append(await transport.open("me"))

    with no_leaks(), warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        asyncio.run(main())
        for plug in left:
            plug.close()
        assert not path.exists()
        assert nodes._nodes == {}


async def test_who_is_disconnected_comes_back(path: Path) -> None:
    transport = SwitchTransport(f"{path}")
    async with plugs(transport, VdeTransport(f"{path}")) as [local, one]:
        transport._switch.ports[0].disconnect()
        with pytest.raises(BrokenTransportError):
            received(local)
        async with plugs(transport) as [again]:
            local.close()
            one.send(frame(EVERYBODY, A))
            assert await next_frame(again) == frame(EVERYBODY, A)


async def test_opening_can_be_cancelled(path: Path) -> None:
    async def life() -> None:
        async with plugs(SwitchTransport(f"{path}")):
            await asyncio.sleep(0)

    assert await cancel_everywhere(life) >= 1
    assert not path.exists()


async def test_a_forked_child_ends_nothing(path: Path) -> None:
    async with plugs(SwitchTransport(f"{path}")) as [local]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                local.close()
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        async with plugs(VdeTransport(f"{path}")) as [one]:
            one.send(frame(EVERYBODY, A))
            assert await next_frame(local) == frame(EVERYBODY, A)
