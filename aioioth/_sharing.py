"""A stack handed to another process of the same user.

The owner listens on an abstract UNIX name: nothing is left in the file system, however
it ends. Whoever connects, and is the same user by the kernel's word, gets one packet
and is hung up on; nothing is ever read from him, so nobody can keep the owner waiting.

    packet      "aioioth" and a NUL, version u8
    beside it   a memory file with the description as JSON, the network namespace, and
                the user namespace that owns it (left out if that is the host's)

Source: unix(7), SO_PEERCRED and SCM_RIGHTS; memfd_create(2).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import socket
import struct
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import FileIO
from typing import TYPE_CHECKING, Any

from aioioth._fork import forget_in_children
from aioioth._keeper import meeting, messages
from aioioth._readiness import until_readable
from aioioth.errors import (
    BrokenTransportError,
    ConfigurationError,
    HandshakeTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth._namespace import Namespace

_log = logging.getLogger("aioioth")

VERSION = 1
_PACKET = struct.Struct("=8sB")
_MAGIC = b"aioioth\0"
_ADDRESS = re.compile(r"@(aioioth/[0-9a-f]{32})")

# Connections that are answered before the loop's other callbacks have their turn.
_BUDGET = 16
_BACKLOG = 64
# Without descriptors to accept with, the socket would wake the loop all the time.
_PAUSE_SECONDS = 0.5
# The owner answers as soon as its loop turns.
_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.02
# Some hundred thousand hosts.
_MAX_DESCRIPTION = 1 << 24


@dataclass(frozen=True)
class SharedInterface:
    """An interface of a shared stack, as its owner sees it."""

    name: str
    vnl: str
    device: str


@dataclass(frozen=True)
class Description:
    """What is to know about a shared stack.

    Attributes:
        name: The owner's name for it.
        kind: As given to `aioioth.Stack`.
        interfaces: In the owner's order.
        hosts: Names to addresses.
        dns: Addresses of servers.
        domain: Search domains.
    """

    name: str
    kind: str
    interfaces: tuple[SharedInterface, ...]
    hosts: dict[str, list[str]]
    dns: tuple[str, ...]
    domain: tuple[str, ...]

    def pack(self) -> bytes:
        """Return it as JSON."""
        import json  # few programs share a stack

        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Description:
        """Return what `pack` has packed.

        Raises:
            ValueError: It is something else.
        """
        import json

        fields = json.loads(data)
        try:
            return cls(
                name=str(fields["name"]),
                kind=str(fields["kind"]),
                interfaces=tuple(
                    SharedInterface(**each) for each in fields["interfaces"]
                ),
                hosts={name: list(found) for name, found in fields["hosts"].items()},
                dns=tuple(fields["dns"]),
                domain=tuple(fields["domain"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(repr(error)) from error


class Sharing:
    """Gives a stack to whoever asks for it at `address`, until closed.

    Args:
        space: The stack's namespace; stays the stack's.
        describe: Called for each who asks.
    """

    def __init__(self, space: Namespace, describe: Callable[[], Description]) -> None:
        name = f"aioioth/{os.urandom(16).hex()}"
        self.address = f"@{name}"
        self._space = space
        self._describe = describe
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        self._sock = _socket()
        try:
            self._sock.bind(b"\0" + name.encode())
            self._sock.listen(_BACKLOG)
            self._resume()
        except BaseException:
            self._sock.close()
            raise
        forget_in_children(self)

    def close(self) -> None:
        """Stop; who is attached already stays so. Idempotent, never raises."""
        if self._sock.fileno() == -1:
            return
        if self._paused is not None:
            self._paused.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def forget_in_child(self) -> None:
        """Close our copy after a fork: nobody would answer what comes in there."""
        self._sock.close()

    def _resume(self) -> None:
        self._paused = None
        if self._sock.fileno() != -1:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        if self._sock.fileno() == -1:
            return  # in a forked child that runs its parent's loop on
        for _ in range(_BUDGET):
            try:
                peer, _address = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("%s: cannot answer now: %s", self.address, error)
                self._loop.remove_reader(self._sock.fileno())
                self._paused = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            with peer:
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        _, uid = meeting.peer(peer)
        if uid not in {os.geteuid(), 0}:
            _log.warning("%s: refused to user id %d", self.address, uid)
            return
        try:
            # A fresh connection has room for a packet; and one that has not, loses.
            peer.setblocking(False)
            with FileIO(os.memfd_create("aioioth"), "w") as file:
                file.write(self._describe().pack())
                descriptors = [file.fileno(), self._space.fileno()]
                if self._space.user_namespace is not None:
                    descriptors.append(self._space.user_namespace)
                socket.send_fds(peer, [_PACKET.pack(_MAGIC, VERSION)], descriptors)
        except OSError as error:  # he is gone, or there are no descriptors left
            _log.debug("%s: %s", self.address, error)


class Shared:
    """What the owner of a stack has sent.

    Attributes:
        description: The stack in words.
        namespace: Descriptor of its network namespace.
        user_namespace: Descriptor of the one that owns it; None: the host's.
    """

    def __init__(self, description: Description, descriptors: list[int]) -> None:
        self.description = description
        self.namespace = descriptors[0]
        self.user_namespace = descriptors[1] if len(descriptors) > 1 else None
        self._descriptors = descriptors

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def check_address(address: object) -> str:
    """Return an address that `Sharing` may have made.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        msg = f"{address!r} is no address of a shared stack: share() returns them"
        raise ConfigurationError(msg)
    return address


async def fetch(address: str) -> Shared:
    """Ask for the stack that is shared at ``address``.

    Raises:
        BrokenTransportError: Nobody shares it, or not with us.
        HandshakeTimeoutError: The owner does not answer.
    """
    sock = _socket()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await _connect(sock, address)
            await until_readable(sock)
        return _receive(sock, address)
    except TimeoutError:
        reason = f"the owner did not answer within {_PATIENCE_SECONDS:g} s"
        raise HandshakeTimeoutError(address, reason) from None
    finally:
        sock.close()


async def _connect(sock: socket.socket, address: str) -> None:
    while True:
        try:
            sock.connect(b"\0" + address[1:].encode())
        except BlockingIOError:  # too many are asking; there is no event to wait for
            await asyncio.sleep(_RETRY_SECONDS)
        except ConnectionRefusedError:
            reason = (
                "nobody shares a stack there any more, at least not in this network "
                "namespace of the host"
            )
            raise BrokenTransportError(
                address, reason, errno=errno.ECONNREFUSED
            ) from None
        else:
            break
    _, uid = meeting.peer(sock)
    if uid not in {os.geteuid(), 0}:
        reason = f"belongs to user id {uid}, and this is user id {os.geteuid()}"
        raise BrokenTransportError(address, reason, errno=errno.EACCES)


def _receive(sock: socket.socket, address: str) -> Shared:
    _, uid = meeting.peer(sock)
    try:
        packet, descriptors = messages.receive(sock)
    except ConnectionResetError:
        packet, descriptors = b"", []
    with ExitStack() as undo:
        for descriptor in descriptors:
            undo.callback(os.close, descriptor)
        if not packet and uid != os.geteuid():
            reason = f"is shared by user id {uid} with nobody else"
            raise BrokenTransportError(address, reason, errno=errno.EACCES)
        if not packet:
            reason = "its owner hung up: it is being closed, or has no descriptors left"
            raise BrokenTransportError(address, reason, errno=errno.ECONNRESET)
        if packet != _PACKET.pack(_MAGIC, VERSION):
            reason = "its owner uses another version of aioioth: upgrade one of the two"
            raise BrokenTransportError(address, reason, errno=errno.EPROTO)
        if len(descriptors) < 2:  # the kernel drops what does not fit into our table
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            description = Description.unpack(_read(descriptors[0]))
        except (ValueError, OSError) as error:
            reason = f"its description makes no sense: {error}"
            raise BrokenTransportError(address, reason, errno=errno.EPROTO) from error
        undo.pop_all()
    os.close(descriptors.pop(0))
    return Shared(description, descriptors)


def _read(file: int) -> bytes:
    size = os.fstat(file).st_size
    if size > _MAX_DESCRIPTION:
        msg = f"{size} bytes"
        raise ValueError(msg)
    return os.pread(file, size, 0)


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    return sock


def plain_hosts(hosts: Any) -> dict[str, list[str]]:  # noqa: ANN401  (a mapping)
    """Return a hosts table as simple data."""
    return {name: plain_list(found) for name, found in dict(hosts).items()}


def plain_list(value: Any) -> list[str]:  # noqa: ANN401  (one, several, or None)
    """Return an address or name, or several of them, as simple data."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [str(each) for each in value]
    return [str(value)]
