"""``tap://[NAME]``: a TAP interface of the host, or of the namespace we are in.

What the host sends through the interface comes to the stack, and the other way round.
Without a NAME the kernel chooses one. An interface that is not there is made, and
removed at the end; a persistent one is used and stays. To set it up and give it an
address is the host's business:

    ip link set tap0 up; ip addr add 10.0.0.1/24 dev tap0

To make one takes root (CAP_NET_ADMIN); to use one that was made for the user does not:

    ip tuntap add dev tap0 mode tap user NAME

Source: Documentation/networking/tuntap.rst; <linux/if_tun.h>, Linux 6.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import ExitStack

from aioioth.errors import BrokenTransportError
from aioioth.vnl import parse_slash
from aioioth_transports._sockets import interface_mtu, interface_name
from aioioth_transports._tun import (
    IFF_PERSIST,
    MAX_MTU,
    TunPlug,
    interface_of,
    take_interface,
)

_DEVICE = "/dev/net/tun"

# Who had the interface before may have closed it, and the kernel not be done with it.
_BUSY_SECONDS = 0.3
_RETRY_SECONDS = 0.02


class TapTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: Name of the interface, or nothing.

    Raises:
        VnlError: It cannot be the name of one.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_slash(address)
        self._name = interface_name(parsed, example="tap://tap0", optional=True)
        self._vnl = f"tap://{address}"

    async def open(self, label: str) -> TunPlug:
        """Open or make the interface; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: It cannot be had.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _BUSY_SECONDS
        while True:
            try:
                return self._open()
            except OSError as error:
                if error.errno != errno.EBUSY or loop.time() > deadline:
                    raise self._explain(error) from error
            await asyncio.sleep(_RETRY_SECONDS)

    def _open(self) -> TunPlug:
        with ExitStack() as undo:
            descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            take_interface(descriptor, self._name)
            name, flags = interface_of(descriptor)
            mtu = MAX_MTU
            # One that we have just made has not been given an MTU yet.
            if flags & IFF_PERSIST:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                    mtu = min(mtu, interface_mtu(any_socket, name))
            plug = TunPlug(descriptor, name, mtu)
            undo.pop_all()
        return plug

    def _explain(self, error: OSError) -> BrokenTransportError:
        name = self._name or "tap0"
        made = f"'ip tuntap add dev {name} mode tap user {os.geteuid()}'"
        if error.filename == _DEVICE:
            reason = f"{_DEVICE}: {error.strerror}. " + (
                "It needs root, or an administrator who opens it to you"
                if error.errno in {errno.EACCES, errno.EPERM}
                else "The kernel has no TAP here: 'modprobe tun', or in a container "
                f"'--device {_DEVICE}'"
            )
        elif error.errno in {errno.EPERM, errno.EACCES}:
            reason = (
                f"making a TAP interface needs root. Let an administrator make one for "
                f"you: {made}"
            )
        elif error.errno == errno.EBUSY:
            reason = f"{name} is in use: another program, or another stack, has it open"
        elif error.errno == errno.EINVAL:
            reason = (
                f"{name} is there, but not as a TAP with one queue: take another name, "
                f"or make it anew with 'ip tuntap add dev {name} mode tap'"
            )
        else:
            reason = f"{name}: {error.strerror or error}"
        return BrokenTransportError(self._vnl, reason, errno=error.errno)
