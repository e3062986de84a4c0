"""Plain sockets and look-ups on the default stack, while somebody asks for it.

`socket.socket` stays the class that it is, so that ``isinstance``, subclasses and names
imported before go on to work: its ``__init__`` and the methods that take an address are
replaced while at least one block needs them, and the module's look-ups. Whether a call
goes to a stack, and to which, the caller's context says each time. The guard looks in
the same place at what is opened.
"""

from __future__ import annotations

import _socket
import os
import socket
from typing import TYPE_CHECKING, Any

from aioioth import _watch
from aioioth._context import FAMILIES, current, patching
from aioioth._literals import is_name
from aioioth._patching import Patch

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.names import AddressInfo
    from aioioth.stack import Stack

_INTERNET = {socket.AF_INET, socket.AF_INET6}

_TYPE_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_original_init = socket.socket.__init__
_original_getaddrinfo = _socket.getaddrinfo


def _install(patch: Patch) -> None:
    patch.replace(socket.socket, "__init__", _init)
    for name, position in (
        ("bind", 0),
        ("connect", 0),
        ("connect_ex", 0),
        ("sendto", -1),
        ("sendmsg", 3),
    ):
        method = getattr(socket.socket, name)
        patch.replace(socket.socket, name, _with_address(method, position))
    # Where socket.getaddrinfo looks, so that names imported before follow, too.
    patch.replace(_socket, "getaddrinfo", _getaddrinfo)
    for lookup in (gethostbyname, gethostbyname_ex, gethostbyaddr, getnameinfo):
        patch.replace(socket, lookup.__name__, _default(lookup))


installed = Patch(_install).installed


def stack_in_charge() -> Stack | None:
    """Return the stack that plain sockets go to here; None: the host's own."""
    return current.get() if patching.get() else None


def _init(
    self: socket.socket,
    family: int = -1,
    type: int = -1,  # noqa: A002  (as socket.socket)
    proto: int = -1,
    fileno: int | None = None,
) -> None:
    """Open a socket as `socket.socket` does, in the stack in charge."""
    stack = stack_in_charge()
    wanted = socket.AF_INET if family == -1 else family
    if fileno is not None or wanted not in FAMILIES:
        _original_init(self, family, type, proto, fileno)
        return
    if stack is None:
        if wanted in _INTERNET:
            _watch.opened_on_host(
                f"opens an {socket.AddressFamily(wanted).name} socket"
            )
        _original_init(self, family, type, proto, fileno)
        return
    kind = socket.SOCK_STREAM if type == -1 else type
    protocol = 0 if proto == -1 else proto
    made = stack.socket(wanted, kind & ~_TYPE_FLAGS, protocol).detach()
    try:
        _original_init(self, wanted, kind, protocol, made)
    except BaseException:
        os.close(made)
        raise
    # A stack's sockets do not block; those of this module do unless told otherwise.
    nonblocking = kind & socket.SOCK_NONBLOCK
    self.settimeout(0 if nonblocking else socket.getdefaulttimeout())


def _with_address(method: Callable[..., Any], position: int) -> Callable[..., Any]:
    """Return a method of sockets that first looks the host in an address up.

    Args:
        method: What has an address as an argument, perhaps.
        position: Where; negative from the end.
    """

    def call(self: socket.socket, *args: Any) -> Any:  # noqa: ANN401
        stack = stack_in_charge()
        if (
            stack is not None
            and -len(args) <= position < len(args)
            and self.family in _INTERNET
        ):
            found = list(args)
            found[position] = _looked_up(stack, self, args[position])
            return method(self, *found)
        return method(self, *args)

    call.__name__ = method.__name__
    return call


def _looked_up(stack: Stack, sock: socket.socket, address: Any) -> Any:  # noqa: ANN401
    if not (isinstance(address, tuple) and len(address) >= 2 and is_name(address[0])):
        return address
    host, port, *scope = address
    found = _ask(stack, host, port, family=sock.family, type=sock.type)[0][4]
    return (*found[:2], *scope) if scope else found


def _ask(
    stack: Stack,
    host: str | bytes | None,
    port: int | str | None,
    **wanted: int,
) -> list[AddressInfo]:
    resolver = stack.check_open().resolver
    # Its own calls of socket.getaddrinfo are about literals, and meant as they are.
    token = current.set(None)
    try:
        return resolver.getaddrinfo_blocking(host, port, **wanted)
    finally:
        current.reset(token)


def _getaddrinfo(  # noqa: PLR0917  (as socket.getaddrinfo)
    host: str | bytes | None,
    port: int | str | None,
    family: int = 0,
    type: int = 0,  # noqa: A002  (as socket.getaddrinfo)
    proto: int = 0,
    flags: int = 0,
) -> Any:  # noqa: ANN401
    stack = stack_in_charge()
    if stack is None:
        # An audit hook would not see the flags, and so not that nobody is asked.
        if is_name(host) and not flags & socket.AI_NUMERICHOST:
            _watch.asked_host(host)
        return _original_getaddrinfo(host, port, family, type, proto, flags)
    return _ask(stack, host, port, family=family, type=type, proto=proto, flags=flags)


def _default(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """Return a look-up that asks the stack in charge, or the host without one."""
    original = getattr(socket, lookup.__name__)

    def call(*args: Any) -> Any:  # noqa: ANN401
        stack = stack_in_charge()
        if stack is not None:
            return lookup(stack, *args)
        if lookup is getnameinfo and len(args) == 2 and _asks_for_name(args[1]):
            _watch.asked_host(args[0][0])  # no audit hook would see the flags
        return original(*args)

    call.__name__ = lookup.__name__
    return call


def _asks_for_name(flags: int) -> bool:
    return not flags & socket.NI_NUMERICHOST


def gethostbyname(stack: Stack, host: str) -> str:
    """Do `socket.gethostbyname` on a stack."""
    return str(_ask(stack, host, None, family=socket.AF_INET)[0][4][0])


def gethostbyname_ex(stack: Stack, host: str) -> tuple[str, list[str], list[str]]:
    """Do `socket.gethostbyname_ex` on a stack."""
    infos = _ask(stack, host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    return host, [], [str(info[4][0]) for info in infos]


def gethostbyaddr(stack: Stack, host: str) -> tuple[str, list[str], list[str]]:
    """Do `socket.gethostbyaddr` on a stack."""
    address = str(_ask(stack, host, None)[0][4][0])
    try:
        name, _ = getnameinfo(stack, (address, 0), socket.NI_NAMEREQD)
    except socket.gaierror:
        raise socket.herror(1, "Unknown host") from None  # HOST_NOT_FOUND, netdb.h
    return name, [], [address]


def getnameinfo(stack: Stack, sockaddr: Any, flags: int) -> tuple[str, str]:  # noqa: ANN401
    """Do `socket.getnameinfo` on a stack."""
    resolver = stack.check_open().resolver
    token = current.set(None)
    try:
        return resolver.getnameinfo_blocking(sockaddr, flags)
    finally:
        current.reset(token)
