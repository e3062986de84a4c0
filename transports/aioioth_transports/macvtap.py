"""``macvtap://NAME``: a macvtap interface: one more MAC address on a link of the host.

To make the interface and to set it up is the host's business:

    ip link add link eth0 name mv0 type macvtap mode bridge
    ip link set mv0 up

The kernel passes to it what is for its own address, and no other: give the stack the
same one, ``Stack("macvtap://mv0", mac="...")``, or the interface the stack's.
Multicasts it passes if the interface asks for them all, which we ask for where we may
(CAP_NET_RAW); otherwise it takes ``ip link set mv0 allmulticast on``, and IPv6 does not
work without. The host itself cannot be reached through its own link, as with macvlan.
One stack for each interface: two would get half of the frames each.

Source: drivers/net/macvtap.c, tap.c and macvlan.c; <linux/if_tun.h>, Linux 6.1.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from aioioth.errors import BrokenTransportError
from aioioth.vnl import parse_slash
from aioioth.wire.hostlinks import get_link
from aioioth.wire.rtnetlink import (
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    attributes,
    link_body,
    messages,
)
from aioioth_transports._sockets import (
    PACKET_MR_ALLMULTI,
    hardware_address,
    interface_index,
    interface_mtu,
    interface_name,
    join,
)
from aioioth_transports._tun import MAX_MTU, TunPlug, interface_of, take_interface


class MacvtapTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: Name of the interface.

    Raises:
        VnlError: It cannot be the name of one.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_slash(address)
        self._name = interface_name(parsed, example="macvtap://mv0")
        self._vnl = f"macvtap://{address}"

    async def open(self, label: str) -> TunPlug:
        """Open the interface's device; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: There is no such macvtap, or it may not be used.
        """
        with (
            ExitStack() as undo,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket,
        ):
            try:
                index = interface_index(any_socket, self._name)
                mtu = min(MAX_MTU, interface_mtu(any_socket, self._name))
                kind = _kind_of(index)
            except OSError as error:
                raise self._missing(error) from error
            if kind != "macvtap":
                reason = f"{self._name} is {kind or 'hardware'}, not macvtap"
                raise BrokenTransportError(self._vnl, reason, errno=errno.ENOTTY)
            descriptor = self._open_device(index)
            undo.callback(os.close, descriptor)
            self._check(descriptor, any_socket, index)
            take_interface(descriptor, self._name)
            held = _multicasts(index)
            for each in held:
                undo.callback(each.close)
            plug = TunPlug(descriptor, self._name, mtu, *held)
            undo.pop_all()
        return plug

    def _missing(self, error: OSError) -> BrokenTransportError:
        reason = f"{self._name}: {error.strerror}"
        if error.errno == errno.ENODEV:
            reason = (
                f"there is no interface {self._name}. Make it: 'ip link add link eth0 "
                f"name {self._name} type macvtap mode bridge'"
            )
        return BrokenTransportError(self._vnl, reason, errno=error.errno)

    def _open_device(self, index: int) -> int:
        path = f"/dev/tap{index}"
        try:
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            reason = f"{self._name}'s device {path} is not there. {self._mknod(index)}"
            code = error.errno
        except PermissionError as error:
            reason = f"you may not use {path}: it needs root, or 'chown' to you"
            code = error.errno
        except OSError as error:
            reason = f"{path}: {error.strerror}"
            code = error.errno
        raise BrokenTransportError(self._vnl, reason, errno=code)

    def _check(self, descriptor: int, any_socket: socket.socket, index: int) -> None:
        """Make sure that the device is this interface's.

        Devices go by the interface's index, which counts from 1 in each network
        namespace, while /dev is the same for all of them.
        """
        try:
            wanted = hardware_address(any_socket.fileno(), self._name)[:8]
            found = hardware_address(descriptor, "")[:8]
            same = interface_of(descriptor)[0] == self._name and wanted == found
        except OSError:
            same = False
        if not same:
            reason = (
                f"/dev/tap{index} is not {self._name}'s device, but another network "
                f"namespace's. {self._mknod(index)}"
            )
            raise BrokenTransportError(self._vnl, reason, errno=errno.ENXIO)

    def _mknod(self, index: int) -> str:
        numbers = f"/sys/class/net/{self._name}/tap{index}/dev"
        try:
            major, _, minor = Path(numbers).read_text().strip().partition(":")
        except OSError:
            major, minor = "MAJOR", f"MINOR with the numbers from {numbers}"
        return (
            f"The kernel makes it where devtmpfs is mounted; elsewhere run "
            f"'mknod /dev/tap{index} c {major} {minor}'"
        )


def _multicasts(index: int) -> list[socket.socket]:
    """Ask for all multicasts; return what keeps them coming, if it is permitted."""
    with ExitStack() as undo, contextlib.suppress(PermissionError):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        undo.callback(sock.close)
        join(sock, index, PACKET_MR_ALLMULTI)
        undo.pop_all()
        return [sock]
    return []


def _kind_of(index: int) -> str:
    """Return what kind of virtual interface it is; nothing if it is none.

    Raises:
        OSError: There is no such interface.
    """
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE
    ) as sock:
        sock.setblocking(False)
        sock.send(get_link(index))
        [(_, body)] = messages(sock.recv(65536))  # it is there when send returns
    link = attributes(body[len(link_body()) :])
    kind = attributes(link.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")
    return os.fsdecode(kind.rstrip(b"\0"))
