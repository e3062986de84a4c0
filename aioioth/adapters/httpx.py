"""httpx and httpcore on a stack, with asyncio, uvloop and trio.

async with httpx.AsyncClient(transport=transport(stack)) as client:
    response = await client.get("http://web/")
"""

from __future__ import annotations

import select
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream
from typing_extensions import override

from aioioth.adapters._needs import needs

with needs("httpx", "httpx>=0.28"):
    import httpcore
    import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

    from anyio.abc import ByteStream

    from aioioth.stack import Stack

    _Option = (
        tuple[int, int, int]
        | tuple[int, int, bytes | bytearray]
        | tuple[int, int, None, int]
    )

__all__ = ["NetworkBackend", "transport"]


def transport(stack: Stack, **kwds: Any) -> httpx.AsyncHTTPTransport:
    """Return a transport for `httpx.AsyncClient` whose connections start in a stack.

    Give ``verify``, ``http2``, ``proxy``, ``limits`` and the like to it: httpx's client
    does not pass on its own to a transport that is given.

    Args:
        stack: Where connections start, and names are looked up.
        kwds: As for `httpx.AsyncHTTPTransport`.

    Raises:
        RuntimeError: This version of httpx is made differently.
    """
    made = httpx.AsyncHTTPTransport(**kwds)
    # httpx has no parameter for httpcore's network backend (httpx 0.28), so it is
    # put where httpx's pool, or pool of proxies, has its own.
    pool = getattr(made, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if not isinstance(backend, httpcore.AsyncNetworkBackend):
        msg = (
            f"httpx {httpx.__version__} does not keep httpcore's network backend where "
            f"0.28 does; use httpcore.AsyncConnectionPool(network_backend=...) itself"
        )
        raise RuntimeError(msg)  # noqa: TRY004  (no argument is of a wrong type)
    vars(pool)["_network_backend"] = NetworkBackend(stack)
    return made


class NetworkBackend(httpcore.AsyncNetworkBackend):
    """Opens the connections of ``httpcore.AsyncConnectionPool`` in a stack.

    Args:
        stack: Where connections start, and names are looked up.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_Option] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect; see httpcore.

        Raises:
            httpcore.ConnectTimeout: It took longer than ``timeout`` seconds.
            httpcore.ConnectError: It failed; the cause is an `OSError`.
            ClosedError: The stack is not open.
        """
        with _as(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
            stream = await self._stack.connect_tcp(host, port, local_host=local_address)
            return await _stream(stream, socket_options)

    @override
    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[_Option] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a path, which is the same in all stacks; see httpcore.

        Raises:
            httpcore.ConnectTimeout: It took longer than ``timeout`` seconds.
            httpcore.ConnectError: It failed; the cause is an `OSError`.
        """
        with _as(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
            return await _stream(await anyio.connect_unix(path), socket_options)

    @override
    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


async def _stream(stream: ByteStream, options: Iterable[_Option] | None) -> _Stream:
    attribute = stream.extra
    try:
        for option in options or ():
            attribute(SocketAttribute.raw_socket).setsockopt(*option)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return _Stream(stream)


class _Stream(httpcore.AsyncNetworkStream):
    """An anyio stream as httpcore wants it."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    @override
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _as(httpcore.ReadError, httpcore.ReadTimeout, timeout):
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    @override
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            with _as(httpcore.WriteError, httpcore.WriteTimeout, timeout):
                await self._stream.send(buffer)

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()

    @override
    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            with _as(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
                encrypted = await TLSStream.wrap(
                    self._stream,
                    server_side=False,
                    hostname=server_hostname,
                    ssl_context=ssl_context,
                    # Most servers of HTTP hang up without TLS's goodbye.
                    standard_compatible=False,
                )
        except BaseException:
            await anyio.aclose_forcefully(self._stream)
            raise
        return _Stream(encrypted)

    @override
    def get_extra_info(self, info: str) -> Any:
        attributes: dict[str, Any] = {
            "client_addr": SocketAttribute.local_address,
            "server_addr": SocketAttribute.remote_address,
            "socket": SocketAttribute.raw_socket,
            "ssl_object": TLSAttribute.ssl_object,
        }
        attribute = self._stream.extra
        if info == "is_readable":
            return _is_readable(attribute(SocketAttribute.raw_socket, None))
        if info in attributes:
            return attribute(attributes[info], None)
        return None


def _is_readable(sock: Any) -> bool:  # noqa: ANN401  (each loop has its own class)
    """Tell httpcore whether an idle connection has something: its end, that is."""
    if sock is None or sock.fileno() == -1:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _as(
    error: type[Exception], timeout_error: type[Exception], timeout: float | None
) -> Iterator[None]:
    """Translate what anyio and sockets raise into httpcore's errors.

    Raises:
        error: The connection failed.
        timeout_error: The block took longer than ``timeout`` seconds.
    """
    try:
        with anyio.fail_after(timeout):
            yield
    except TimeoutError as exc:
        raise timeout_error(str(exc)) from exc
    except (
        OSError,  # includes ssl.SSLError
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        anyio.EndOfStream,
    ) as exc:
        raise error(str(exc)) from exc
