"""What ``macvlan://``, ``kvxlan://`` and ``wireguard://`` share: links of the host.

The kernel makes such a link in a stack, and what it leads to, a parent or a UDP socket,
stays where it was asked for: in the network namespace of the program. So that takes
CAP_NET_ADMIN there, which root has, besides the rights in the stack. The link goes with
the stack, whatever ends the program.

Source: rtnetlink(7); net/core/rtnetlink.c, rtnl_newlink(), Linux 6.1 and 6.18.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from aioioth.errors import ConfigurationError, MissingPrivilegeError, NetlinkError
from aioioth.wire.hostlinks import get_link, link_mtu, make_and_move, no_change
from aioioth.wire.rtnetlink import del_link, link_body, messages, set_link

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    from aioioth.abc import NewInterface

# <linux/socket.h>, <linux/netlink.h>, Linux 6.1
_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11

# An address list has the most to say.
_LARGEST_ANSWER = 1 << 16

# A namespace ends a moment after its last user, 10 to 50 ms measured, and what it held
# is taken until then.
_PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Recipe:
    """How a link is made.

    Attributes:
        kind: What it is for the kernel, and its module's name.
        words: What stands behind ``ip link add NAME`` for it.
        make: Returns the request, given the body of one.
        mtu: Largest payload in bytes.
        has_mac: Whether its MAC address can be chosen.
        reasons: What an error of the kernel's means, by number.
        passing: Errors that may come of a stack that was closed just now.
    """

    kind: str
    words: str
    make: Callable[[bytes], bytes]
    mtu: int
    has_mac: bool = True
    reasons: Mapping[int, str] = field(default_factory=dict)
    passing: Collection[int] = ()


class HostLinkJunction:
    """See `aioioth.abc.Junction`.

    Args:
        recipe: How the link is made.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.kind: str = recipe.kind
        self.mtu: int = recipe.mtu

    async def make(self, wanted: NewInterface, /) -> None:
        """Make the link, a second later at most; see `aioioth.abc.Junction.make`.

        Raises:
            NetlinkError: The kernel refused; nothing was made.
            ClosedError: The stack is closed.
        """
        give_up = monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._make(wanted)
            except NetlinkError:
                raise
            except OSError as error:
                if not self._may_pass(error) or monotonic() > give_up:
                    raise self._explain(error, wanted) from error
            else:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def set_carrier(self, *, on: bool) -> None:
        """Refuse; see `aioioth.abc.Junction.set_carrier`.

        Raises:
            ConfigurationError: Always.
        """
        msg = (
            f"a {self.kind} link has no cable to pull out: set the interface down and "
            f"up, with 'ip link set' in the stack"
        )
        raise ConfigurationError(msg)

    def close(self) -> None:
        """Do nothing: a link goes with its stack; see `aioioth.abc.Junction.close`."""

    def _make(self, wanted: NewInterface) -> None:
        """Make it at once.

        Raises:
            OSError: It cannot be; nothing was made.
        """
        # The number of its descriptor may be another's by now: this says so.
        with stack_socket(wanted, socket.NETLINK_ROUTE):
            make_link(self._recipe, wanted, up=True)

    def _may_pass(self, error: OSError) -> bool:
        if error.errno == errno.EEXIST and not _has_words(error):
            return False  # it is about the name, or the number
        return error.errno in self._recipe.passing

    def _explain(self, error: OSError, wanted: NewInterface) -> NetlinkError:
        code = error.errno or 0
        kind = self._recipe.kind
        if code == errno.EOPNOTSUPP:
            reason = f"this kernel has no {kind}, or not loaded it: 'modprobe {kind}'"
        elif code == errno.EEXIST and not _has_words(error):
            reason = (
                f"the stack has an interface of that name, or number {wanted.index}"
            )
        else:
            reason = self._recipe.reasons.get(code, "")
        if not reason and _has_words(error):
            reason = error.strerror or ""
        request = f"ip link add {wanted.name} {self._recipe.words}"
        return NetlinkError(code, request, reason)


def require_privilege(action: str, advice: str) -> None:
    """Find out whether links of the host may be made.

    Args:
        action: For the error, such as "making a macvlan of eth0".
        advice: What to do if not, besides being root.

    Raises:
        MissingPrivilegeError: They may not.
    """
    with host_socket() as sock:
        try:
            ask(sock, no_change())
        except PermissionError as error:
            needs = (
                f"It takes root: CAP_NET_ADMIN in the host's network namespace. "
                f"{advice}"
            )
            raise MissingPrivilegeError(
                action, needs, errno=error.errno or errno.EPERM
            ) from error
        except OSError:
            pass  # as to be expected: nothing was asked for


def host_socket() -> socket.socket:
    """Open a netlink socket where the program is."""
    return _explaining(
        socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
    )


def stack_socket(wanted: NewInterface, protocol: int) -> socket.socket:
    """Open a netlink socket in the stack.

    Raises:
        OSError: It cannot be opened.
        ClosedError: The stack is closed.
    """
    return _explaining(wanted.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol))


def ask(sock: socket.socket, *requests: bytes) -> bytes:
    """Send requests, one after the other; the kernel has answered when that returns.

    Returns:
        The last answer's body; of an acknowledgement, nothing of use.

    Raises:
        OSError: The kernel refused; in its own words, where it has any.
    """
    answer = b""
    for each in requests:
        sock.send(each)
        for _, body in messages(sock.recv(_LARGEST_ANSWER)):
            answer = body
    return answer


def mtu_of(sock: socket.socket, index: int) -> int:
    """Return the MTU of a link of the host.

    Raises:
        OSError: There is none of that number.
    """
    return link_mtu(ask(sock, get_link(index)))


def make_link(recipe: Recipe, wanted: NewInterface, *, up: bool) -> None:
    """Make a link in the stack.

    Raises:
        OSError: It cannot be; nothing was made.
        ClosedError: The stack is closed.
    """
    mac = wanted.mac if recipe.has_mac else None
    body = link_body(
        index=wanted.index,
        name=wanted.name,
        mtu=wanted.mtu,
        mac=mac,
        namespace=wanted.namespace,
        up=up or None,
    )
    with host_socket() as sock:
        try:
            ask(sock, recipe.make(body))
        except FileExistsError as error:
            if _has_words(error):
                raise  # it is about something else
            make_elsewhere(sock, recipe, wanted, up=up)


def make_elsewhere(
    sock: socket.socket, recipe: Recipe, wanted: NewInterface, *, up: bool
) -> None:
    """Make a link in the namespace of a socket, and move it to the stack at once.

    Before Linux 6.15, a link that is made for another namespace needs a name and a
    number that are free in both. So it has others until it is there.

    Raises:
        OSError: It cannot be; nothing was made.
        ClosedError: The stack is closed.
    """
    name = f"aio{secrets.token_hex(6)}"
    body = link_body(mtu=wanted.mtu, mac=wanted.mac if recipe.has_mac else None)
    steps = make_and_move(recipe.make, body, name, wanted.namespace, wanted.index)
    with stack_socket(wanted, socket.NETLINK_ROUTE) as there:
        sock.send(steps)
        made, moved, _ = (sock.recv(_LARGEST_ANSWER) for _ in range(3))
        tuple(messages(made))
        try:
            tuple(messages(moved))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise OSError(errno.EEXIST, "EEXIST") from error  # of its number
        with deleted_on_error(there, wanted.index):
            body = link_body(index=wanted.index, name=wanted.name, up=up or None)
            ask(there, set_link(body))


@contextmanager
def deleted_on_error(sock: socket.socket, index: int) -> Generator[None]:
    """Delete a link if the block fails.

    Args:
        sock: In the stack.
        index: The link's number.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it is gone already, maybe with its parent
            ask(sock, del_link(link_body(index=index)))
        raise


def _explaining(sock: socket.socket) -> socket.socket:
    """Have the kernel say more than a number."""
    sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    return sock


def _has_words(error: OSError) -> bool:
    """Return whether the kernel said more than a number."""
    return error.strerror not in {None, errno.errorcode.get(error.errno or 0)}
