"""``wireguard://``, on hosts of two sorts."""

from __future__ import annotations

import asyncio
import base64
import errno
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import NetlinkError
from aioioth.wire import rtnetlink
from aioioth.wire.wireguard import get_family
from aioioth_transports import wireguard
from aioioth_transports.wireguard import WireguardTransport
from tests.kernel.hosts import INSTALLED, IP, PING, Host, check, wanted_in

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kernel.conftest import Ask

pytestmark = INSTALLED

GET_FAMILY = get_family()


def kernel_has_no(kind: str, error: OSError) -> None:
    if error.errno == errno.EOPNOTSUPP:
        pytest.skip(f"this kernel has no {kind}")
    raise error


def configuration(path: Path, own: bytes, text: str) -> str:
    path.touch(0o600)
    path.write_text(
        f"[Interface]\nPrivateKey = {base64.b64encode(own).decode()}\n{text}"
    )
    return str(path)


async def test_wireguard(
    hosts: list[Host], tmp_path: Path, way: str, ask: Ask, echo: Any
) -> None:
    x25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.x25519")
    keys = [secrets.token_bytes(32) for _ in hosts]
    public = [
        base64.b64encode(
            x25519.X25519PrivateKey.from_private_bytes(key)
            .public_key()
            .public_bytes_raw()
        ).decode()
        for key in keys
    ]
    transports = []
    for own, other in ((1, 2), (2, 1)):
        text = (
            f"ListenPort = 5180{own}\nAddress = 10.0.0.{own}/24, fd00::{own}/64\n"
            f"[Peer]\nPublicKey = {public[other - 1]}\n"
            f"AllowedIPs = 10.0.0.{other}/32, fd00::{other}/128, 10.9.0.0/16\n"
            f"Endpoint = 192.168.0.{other}:5180{other}\n"
        )
        path = configuration(tmp_path / f"wg{own}.conf", keys[own - 1], text)
        transports.append(WireguardTransport(path))
    stacks = []
    async with AsyncExitStack() as undo:
        for host, transport in zip(hosts, transports, strict=True):
            with host.here():
                try:
                    stacks.append(
                        await undo.enter_async_context(aioioth.Stack(transport))
                    )
                except NetlinkError as error:
                    kernel_has_no("wireguard", error)
        await check(stacks, ask, echo)


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a bridge without ports in a WireGuard link's place."""

    def new_bridge(body: bytes) -> bytes:
        return rtnetlink.new_link(body + rtnetlink.link_info("bridge"))

    monkeypatch.setattr(wireguard, "_new_wireguard", new_bridge)


@pytest.mark.usefixtures("_stand_in")
async def test_nothing_stays_of_a_link_that_cannot_be_configured(
    hosts: list[Host], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = hosts
    monkeypatch.setattr(wireguard, "get_family", unknown_family)
    path = configuration(tmp_path / "wg0.conf", secrets.token_bytes(32), "")
    before = await here.names()
    async with aioioth.Stack() as stack:
        with here.here():
            junction = await WireguardTransport(path).join("us")
            with pytest.raises(NetlinkError, match="wg setconf test0: No such file"):
                await junction.make(await wanted_in(stack))
        assert await Host("", stack).names() == ["lo:"]
    assert await here.names() == before


@pytest.mark.usefixtures("_stand_in")
async def test_what_the_file_gives_the_stack(
    hosts: list[Host], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = hosts
    monkeypatch.setattr(wireguard, "configure", lambda *_: ())
    monkeypatch.setattr(wireguard, "get_family", known_family)
    monkeypatch.setattr(wireguard, "family_number", lambda _: 0)
    text = (
        f"Address = 10.0.0.1/24, fd00::1/64\nMTU = 1300\n"
        f"[Peer]\nPublicKey = {base64.b64encode(bytes(32)).decode()}\n"
        f"AllowedIPs = 10.0.0.0/24, 10.9.0.0/16, 0.0.0.0/0, ::/0\n"
    )
    path = configuration(tmp_path / "wg0.conf", secrets.token_bytes(32), text)
    async with AsyncExitStack() as undo:
        with here.here():
            stack = aioioth.Stack(WireguardTransport(path))
            await undo.enter_async_context(stack)
        for address in ("10.0.0.1", "fd00::1"):
            assert await stack.run(f"{PING} -c 1 -q {address}") == 0
        interface = stack.interfaces["vde0"]
        assert interface.mtu == 1300
        program = await stack.create_subprocess_exec(
            IP, "route", "show", stdout=asyncio.subprocess.PIPE
        )
        routes, _ = await program.communicate()
        assert [line.split()[:3] for line in routes.decode().splitlines()] == [
            ["default", "dev", "vde0"],
            ["10.0.0.0/24", "dev", "vde0"],
            ["10.9.0.0/16", "dev", "vde0"],
        ]


def unknown_family() -> bytes:
    return GET_FAMILY.replace(b"wireguard", b"wireguarb")


def known_family() -> bytes:
    return GET_FAMILY.replace(b"wireguard\0", b"nlctrl\0\0\0\0")


async def test_a_kernel_without_wireguard(hosts: list[Host], tmp_path: Path) -> None:
    here, _ = hosts
    if not await here.ip("link add wg9 type wireguard"):
        await here.ip("link del wg9")
        pytest.skip("this kernel has wireguard")
    path = configuration(tmp_path / "wg0.conf", secrets.token_bytes(32), "")
    before = await here.names()
    with here.here():
        with pytest.raises(NetlinkError, match="'modprobe wireguard'") as caught:
            async with aioioth.Stack(WireguardTransport(path)):
                pass
        assert caught.value.errno == errno.EOPNOTSUPP
    assert await here.names() == before
