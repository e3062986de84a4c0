"""asyncssh on a stack.

async with await connect(stack, "server", username="me") as connection:
    print((await connection.run("hostname")).stdout)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioioth.adapters._needs import needs
from aioioth.adapters._sockets import bound_once, connected, let_go

with needs("asyncssh", "asyncssh>=2.18"):
    import asyncssh

if TYPE_CHECKING:
    from aioioth.stack import Stack

__all__ = ["connect", "listen"]


async def connect(
    stack: Stack,
    host: str,
    port: int = 22,
    *,
    local_addr: tuple[str, int] | None = None,
    **kwds: Any,
) -> asyncssh.SSHClientConnection:
    """Connect from a stack, as `asyncssh.connect`.

    Args:
        stack: Where the connection starts, and ``host`` is looked up.
        host: Name or address; also what is looked for in ``known_hosts``.
        port: TCP port.
        local_addr: Address and port to connect from.
        kwds: As for `asyncssh.connect`. ``config`` is None if not given: asyncssh would
            read ``~/.ssh/config``, which may send it through the host's network.

    Returns:
        The connection, to be closed or used with ``async with``. What it forwards
        listens and connects on the host, not in the stack.

    Raises:
        OSError: As asyncio raises it.
        asyncssh.Error: The server, or who we are, is not accepted.
        ClosedError: The stack is not open.
    """
    kwds.setdefault("config", None)
    sock = await connected(stack, host, port, local_addr=local_addr)
    try:
        return await asyncssh.connect(host, port, sock=sock, **kwds)
    except BaseException:
        sock.close()
        raise


async def listen(
    stack: Stack, host: str | None = None, port: int = 22, **kwds: Any
) -> asyncssh.SSHAcceptor:
    """Listen on a stack, as `asyncssh.listen`.

    Args:
        stack: Where to listen.
        host: Name or address; None for all addresses.
        port: TCP port; 0 for a free one.
        kwds: As for `asyncssh.listen`. ``config`` is None if not given.

    Returns:
        The acceptor, to be closed or used with ``async with``.

    Raises:
        OSError: As asyncio raises it.
        ClosedError: The stack is not open.
    """
    kwds.setdefault("config", None)
    sock = await bound_once(stack, host, port)
    try:
        return await asyncssh.listen(sock=sock, **kwds)
    except BaseException:
        let_go([sock])
        raise
