"""Hosts and services to socket addresses, without asking the host's resolver.

Literal addresses and ``localhost`` (RFC 6761 section 6.3) so far.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    AddressInfo = tuple[
        socket.AddressFamily,
        socket.SocketKind,
        int,
        str,
        tuple[str, int] | tuple[str, int, int, int],
    ]

_LOOPBACK = {socket.AF_INET6: "::1", socket.AF_INET: "127.0.0.1"}

# Only asks what the *host* has configured, which says nothing about the stack.
_HOST_FLAGS = socket.AI_ADDRCONFIG | socket.AI_V4MAPPED | socket.AI_ALL


def resolve(
    host: str | bytes | None,
    port: int | str | None,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002  (as socket.getaddrinfo)
    proto: int = 0,
    flags: int = 0,
    interface_index: Callable[[str], int],
) -> list[AddressInfo]:
    """Return socket addresses as `socket.getaddrinfo` does.

    Args:
        host: Literal address, also with ``%interface``; ``localhost``; None.
        port: Number or name of a service.
        family: As for `socket.getaddrinfo`.
        type: As for `socket.getaddrinfo`.
        proto: As for `socket.getaddrinfo`.
        flags: As for `socket.getaddrinfo`.
        interface_index: Finds an interface's index in the stack.

    Raises:
        socket.gaierror: The host is a name, or the service is unknown.
    """
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii")
    flags = flags & ~_HOST_FLAGS | socket.AI_NUMERICHOST
    if host is not None and host.rstrip(".").lower() in {"localhost", "ip6-localhost"}:
        hosts = [text for kind, text in _LOOPBACK.items() if family in {0, kind}]
    else:
        hosts = ["" if host is None else host]
    if not hosts:
        raise socket.gaierror(socket.EAI_FAMILY, "ai_family not supported")
    found: list[AddressInfo] = []
    for literal in hosts:
        bare, _, scope = literal.partition("%")
        try:
            asked = None if host is None else bare
            infos = socket.getaddrinfo(asked, port, family, type, proto, flags)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or host is None:
                raise
            reason = (
                f"{literal!r} is no literal address; stacks do not resolve other names "
                f"than 'localhost' yet"
            )
            raise socket.gaierror(error.errno, reason) from None
        index = _scope_index(scope, interface_index) if scope else 0
        found += [_with_scope(info, index) for info in infos]  # type: ignore[arg-type]
    return found


def _scope_index(scope: str, interface_index: Callable[[str], int]) -> int:
    if scope.isdecimal():
        return int(scope)
    try:
        return interface_index(scope)
    except OSError as error:
        reason = f"the stack has no interface {scope!r}"
        raise socket.gaierror(socket.EAI_NONAME, reason) from error


def _with_scope(info: AddressInfo, index: int) -> AddressInfo:
    family, kind, proto, name, address = info
    if index and len(address) == 4:
        address = (*address[:3], index)
    return family, kind, proto, name, address
