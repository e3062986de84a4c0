"""redis-py on a stack.

async with client(stack, "db") as redis:
    await redis.set("greeting", "hello")
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from aioioth.adapters._needs import needs
from aioioth.adapters._sockets import connected
from aioioth.errors import ConfigurationError

with needs("redis", "redis>=6"):
    from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from aioioth.stack import Stack

__all__ = ["StackConnection", "StackSSLConnection", "client", "pool"]


def client(
    stack: Stack, host: str = "localhost", port: int = 6379, **kwds: Any
) -> Redis:
    """Return a client whose connections start in a stack.

    Args:
        stack: Where connections start, and ``host`` is looked up.
        host: Name or address of the server.
        port: TCP port of the server.
        kwds: As for `redis.asyncio.Redis`.

    Raises:
        ConfigurationError: A UNIX socket or a pool is asked for.
    """
    made = Redis(host=host, port=port, **kwds)
    _bind(made.connection_pool, stack)
    return made


def pool(stack: Stack, url: str, **kwds: Any) -> ConnectionPool:
    """Return a pool of connections that start in a stack.

    Args:
        stack: Where connections start, and the host is looked up.
        url: ``redis://`` or ``rediss://``.
        kwds: As for `redis.asyncio.ConnectionPool.from_url`.

    Raises:
        ConfigurationError: The URL names a UNIX socket.
    """
    made = ConnectionPool.from_url(url, **kwds)
    _bind(made, stack)
    return made


def _bind(pool: ConnectionPool, stack: Stack) -> None:
    """Let a pool that has no connections yet make ours."""
    ours: dict[type, type[Connection]] = {
        Connection: StackConnection,
        SSLConnection: StackSSLConnection,
    }
    try:
        pool.connection_class = ours[pool.connection_class]
    except KeyError:
        name = pool.connection_class.__name__
        msg = f"a stack has nothing to do with redis-py's {name}"
        raise ConfigurationError(msg) from None
    pool.connection_kwargs["stack"] = stack


class StackConnection(Connection):
    """A connection that starts in a stack; ``connection_class`` of a pool.

    Args:
        stack: Where it starts, and the host is looked up.
        kwds: As for `redis.asyncio.Connection`.
    """

    def __init__(self, *, stack: Stack, **kwds: Any) -> None:
        super().__init__(**kwds)
        self._stack = stack
        self._connected: socket.socket | None = None

    @override
    async def connect(self) -> None:
        """Connect.

        Raises:
            redis.exceptions.ConnectionError: It failed.
            redis.exceptions.TimeoutError: It took longer than
                ``socket_connect_timeout`` seconds.
            ClosedError: The stack is not open.
        """
        # Here, or redis-py takes it for a reason to try again.
        self._stack.check_open()
        await super().connect()  # type: ignore[no-untyped-call]

    @override
    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            sock = await connected(self._stack, self.host, self.port)
            self._connected = sock
            try:
                await super()._connect()  # type: ignore[no-untyped-call]
            except BaseException:
                sock.close()
                raise
            finally:
                self._connected = None

    @override
    def _connection_arguments(self) -> Mapping[str, Any]:
        # What redis-py gives to asyncio.open_connection.
        arguments = {**super()._connection_arguments(), "sock": self._connected}
        host = arguments.pop("host")
        del arguments["port"]
        if "ssl" in arguments:
            arguments["server_hostname"] = host
        return arguments


class StackSSLConnection(StackConnection, SSLConnection):
    """The same with TLS."""
