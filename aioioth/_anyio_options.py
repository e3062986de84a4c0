"""What anyio's calls take by name, for type checkers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from anyio.abc import IPAddressType

AnyIPAddressFamily = Literal[
    socket.AddressFamily.AF_UNSPEC,
    socket.AddressFamily.AF_INET,
    socket.AddressFamily.AF_INET6,
]


class ConnectOptions(TypedDict, total=False):
    """What `connect_tcp` takes with or without TLS."""

    local_host: IPAddressType | None
    local_port: int | None
    happy_eyeballs_delay: float


class TLSOptions(ConnectOptions, total=False):
    """What `connect_tcp` takes with TLS, whichever argument asks for it."""

    tls_standard_compatible: bool


class ListenerOptions(TypedDict, total=False):
    """What `create_tcp_listener` takes."""

    local_host: IPAddressType | None
    local_port: int
    family: AnyIPAddressFamily
    backlog: int
    reuse_port: bool


class UDPOptions(TypedDict, total=False):
    """What `create_udp_socket` takes by name."""

    local_host: IPAddressType | None
    local_port: int
    reuse_port: bool


class ConnectedUDPOptions(UDPOptions, total=False):
    """What `create_connected_udp_socket` takes by name."""

    family: AnyIPAddressFamily
