"""From addresses to bound sockets of a stack."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from aioioth._connecting import BIND_ERRORS_NUMBERED, addresses, bind

if TYPE_CHECKING:
    from aioioth.names import AddressInfo
    from aioioth.stack import Stack


async def listening_addresses(
    stack: Stack,
    host: str | Sequence[str] | None,
    port: int | str | None,
    *,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
) -> list[AddressInfo]:
    """Return the addresses to listen on, as `asyncio.loop.create_server` takes them.

    Raises:
        OSError: There are none.
    """
    hosts: Iterable[str | None]
    if host is None or host == "":
        hosts = [None]
    elif isinstance(host, str) or not isinstance(host, Iterable):
        hosts = [host]
    else:
        hosts = host
    found: dict[AddressInfo, None] = {}  # asyncio listens once on what is named twice
    for name in hosts:
        for info in await addresses(stack, name, port, family=family, flags=flags):
            found[info] = None
    return list(found)


def bind_all(
    stack: Stack, infos: list[AddressInfo], options: dict[int, bool]
) -> list[socket.socket]:
    """Return a bound socket for each address, or none at all.

    Args:
        stack: Where they listen.
        infos: What they listen on.
        options: Of level ``SOL_SOCKET``; those that are wanted are set.

    Raises:
        OSError: As asyncio's loop raises it.
    """
    with ExitStack() as undo:
        sockets = []
        for family, kind, proto, _, address in infos:
            try:
                sock = stack.socket(family, kind, proto)
            except OSError as error:
                # asyncio too goes on: the kernel may lack a family (bpo-30945).
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                continue
            undo.callback(sock.close)
            for option, wanted in options.items():
                if wanted:
                    sock.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                # One socket for each family, not one for both.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                bind(sock, address)
            except OSError as error:
                if BIND_ERRORS_NUMBERED and error.errno == errno.EADDRNOTAVAIL:
                    sock.close()
                    continue
                raise
            sockets.append(sock)
        if not sockets:
            msg = f"could not bind on any address out of {[info[4] for info in infos]}"
            raise OSError(msg)
        undo.pop_all()
    return sockets
