"""Links, addresses and routes, asked for and complained about in iproute2's words."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aioioth._linux import netdevice
from aioioth.errors import ConfigurationError, NetlinkError

if TYPE_CHECKING:
    from aioioth._settings import IPInterface
    from aioioth.netlink import Netlink

# <linux/if_addr.h>, Linux 6.1
_IFA_F_NODAD = 0x02
# <linux/rtnetlink.h>
_RTN_LOCAL = 2

# The kernel's worker takes microseconds, on a busy machine some milliseconds.
_LOCAL_SECONDS = 1.0


async def add_veth(
    netlink: Netlink, name: str, *, peer: str, peer_mtu: int, peer_namespace: int
) -> None:
    """Make a veth pair whose other end is in another namespace.

    Raises:
        NetlinkError: The name is taken, or the kernel has no veth.
    """
    far: dict[str, Any] = {"ifname": peer, "net_ns_fd": peer_namespace, "mtu": peer_mtu}
    with netlink.translated(f"ip link add {name} type veth peer name {peer}"):
        await netlink.link("add", ifname=name, kind="veth", peer=far)


async def set_link(netlink: Netlink, name: str, **attributes: Any) -> None:
    """Do ``ip link set NAME ATTRIBUTE VALUE ...``.

    Raises:
        NetlinkError: The kernel refused.
    """
    words = " ".join(f"{key} {value}" for key, value in attributes.items())
    request = f"ip link set {name} {words}"
    index = _index(netlink, name, request)
    with netlink.translated(request):
        await netlink.link("set", index=index, **attributes)


async def change_address(
    netlink: Netlink, command: str, address: IPInterface, dev: str
) -> None:
    """Do ``ip address COMMAND ADDRESS dev DEV``.

    Raises:
        NetlinkError: The kernel refused.
    """
    request = f"ip address {command} {address} dev {dev}"
    attributes: dict[str, Any] = {
        "index": _index(netlink, dev, request),
        "address": str(address.ip),
        "prefixlen": address.network.prefixlen,
    }
    if address.version == 6:
        # Usable at once. Without the flag the kernel calls it tentative until a worker
        # thread of its own has looked at it, even where duplicates are not looked for.
        attributes["flags"] = _IFA_F_NODAD
    elif address.network.prefixlen < 31:
        attributes["broadcast"] = str(address.network.broadcast_address)
    with netlink.translated(request):
        await netlink.addr(command, **attributes)
    if address.version == 6 and command != "del":
        await _wait_until_local(netlink, str(address.ip), dev)


async def _wait_until_local(netlink: Netlink, address: str, dev: str) -> None:
    """Wait until the kernel takes what is sent to an IPv6 address of its own.

    A worker thread of the kernel's makes the route to itself, some time after the
    request was answered. What comes before is thrown away, and a neighbour's answer
    that is lost is asked for a second later. A link that is down has no such route.
    """
    if not netdevice.interface_is_up(netlink.fileno(), dev):
        return
    index = netdevice.interface_index(netlink.fileno(), dev)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LOCAL_SECONDS
    while loop.time() < deadline:
        with suppress(NetlinkError), netlink.translated(f"ip route get {address}"):
            for route in await netlink.route("get", dst=address, oif=index):
                if route["type"] == _RTN_LOCAL:
                    return
        await asyncio.sleep(0.001)


async def add_link_local(netlink: Netlink, dev: str) -> None:
    """Give an interface the IPv6 link-local address that its MAC address makes.

    The kernel would do that itself (addr_gen_mode), but a moment later, and the address
    cannot be bound to before.

    Raises:
        NetlinkError: The kernel refused.

    Source:
        RFC 4291 appendix A (modified EUI-64).
    """
    mac = bytes.fromhex(netdevice.interface_mac(netlink.fileno(), dev).replace(":", ""))
    host = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    prefix = bytes.fromhex("fe80") + bytes(6)
    address = ipaddress.IPv6Interface((prefix + host, 64))
    await change_address(netlink, "replace", address, dev)


async def change_route(
    netlink: Netlink, command: str, destination: str, via: str | None, dev: str | None
) -> None:
    """Do ``ip route COMMAND DESTINATION via VIA dev DEV``.

    Raises:
        NetlinkError: The kernel refused.
        ConfigurationError: The destination is no network.
    """
    try:
        network = ipaddress.ip_network(destination)
    except ValueError as error:
        msg = f"destination {destination!r} is no network: {error}"
        raise ConfigurationError(msg) from None
    request = f"ip route {command} {network}"
    attributes: dict[str, Any] = {"dst": str(network)}
    if via is not None:
        request += f" via {via}"
        attributes["gateway"] = via
    if dev is not None:
        request += f" dev {dev}"
        attributes["oif"] = _index(netlink, dev, request)
    with netlink.translated(request):
        await netlink.route(command, **attributes)


def _index(netlink: Netlink, name: str, request: str) -> int:
    try:
        return netdevice.interface_index(netlink.fileno(), name)
    except OSError as error:
        raise NetlinkError(error.errno or errno.ENODEV, request) from error
