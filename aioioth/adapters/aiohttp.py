"""aiohttp on a stack: clients by a connector, servers by a site.

async with aiohttp.ClientSession(connector=connector(stack)) as session:
    async with session.get("http://web/") as response:
        print(await response.text())
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from aioioth.adapters._needs import needs

with needs("aiohttp", "aiohttp>=3.12"):
    from aiohttp import TCPConnector, web
    from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from aioioth.stack import Stack

__all__ = ["Resolver", "Site", "connector"]


class Resolver(AbstractResolver):
    """Looks names up as the stack does, for aiohttp's connectors."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    @override
    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``.

        Raises:
            OSError: There are none; aiohttp makes a `ClientConnectorDNSError` of it.
            ClosedError: The stack is not open.
        """
        infos = await self._stack.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM
        )
        return [
            ResolveResult(
                hostname=host,
                host=_literal(address),
                port=address[1],
                family=found,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, proto, _, address in infos
        ]

    @override
    async def close(self) -> None:
        """Do nothing: the stack is not the resolver's to close."""


def _literal(address: tuple[Any, ...]) -> str:
    host, _, *scope = address
    # aiohttp keeps no other place for the scope of a link-local address.
    return f"{host}%{scope[1]}" if len(scope) == 2 and scope[1] else str(host)


def connector(stack: Stack, **kwds: Any) -> TCPConnector:
    """Return a connector for `aiohttp.ClientSession`, bound to a stack.

    Args:
        stack: Where connections start, and names are looked up.
        kwds: As for `aiohttp.TCPConnector`.

    Returns:
        A connector; the session closes it.
    """
    kwds.setdefault("resolver", Resolver(stack))
    return TCPConnector(
        # family, type and protocol
        socket_factory=lambda info: stack.socket(*info[:3]),
        **kwds,
    )


class Site(web.BaseSite):
    """As `aiohttp.web.TCPSite`, on a stack.

    Not a `SockSite` on a bound socket: that has only one address, and leaves the socket
    open if it is cancelled while it starts.

    Args:
        stack: Where to listen.
        runner: Set up already; its ``cleanup`` stops the site.
        host: Name or address, or several; None for all addresses.
        port: None: 8080, and 8443 with TLS.
        ssl_context: For TLS.
        backlog: Most connections that wait to be accepted.
        reuse_address: As for `asyncio.loop.create_server`.
        reuse_port: As for `asyncio.loop.create_server`.
    """

    def __init__(  # noqa: PLR0913  (as TCPSite)
        self,
        stack: Stack,
        runner: web.BaseRunner,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        backlog: int = 128,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=ssl_context, backlog=backlog)
        self._stack = stack
        self._address = host, port or (8443 if ssl_context else 8080)
        self._reuse: dict[str, Any] = {
            "reuse_address": reuse_address,
            "reuse_port": reuse_port,
        }

    @property
    @override
    def name(self) -> str:
        """Where it listens, as the beginning of a URL."""
        host, port = self._address
        shown = host if isinstance(host, str) and host else "0.0.0.0"  # noqa: S104
        if ":" in shown:
            shown = f"[{shown}]"
        return f"{'https' if self._ssl_context else 'http'}://{shown}:{port}"

    @override
    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: As asyncio raises it.
            ClosedError: The stack is not open.
        """
        await super().start()
        assert self._runner.server is not None  # or the site could not be made
        self._server = await self._stack.create_server(
            self._runner.server,
            *self._address,
            ssl=self._ssl_context,
            backlog=self._backlog,
            **self._reuse,
        )
