"""TLS on top of a stream of bytes.

Without tasks: a handshake that a stranger never finishes is an object to be dropped.

Source: `ssl.SSLObject`, of the Python library.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth_transports._framed import ByteStream, StreamPlug

# The most that a record of TLS holds.
_RECORD_SIZE = 1 << 14


@dataclass(frozen=True)
class TlsOptions:
    """What is asked for.

    Attributes:
        server: Whether it is us whom others connect to.
        name: Whom a client wants to talk to.
        ca: File of the authorities that the other side's certificate must come from;
            None for the system's, and in a server for none.
        cert: File of our certificate.
        key: File of its key, if it is another one.
    """

    server: bool
    name: str
    ca: str | None
    cert: str | None
    key: str | None

    def make_context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            OSError: One of them cannot be read, or is not what it should be.
        """
        purpose = ssl.Purpose.CLIENT_AUTH if self.server else ssl.Purpose.SERVER_AUTH
        what, file = "ca", self.ca
        try:
            context = ssl.create_default_context(purpose, cafile=self.ca)
            what, file = "cert or key", self.cert
            if self.cert is not None:
                # Without a password it would be asked for, on the terminal.
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except ssl.SSLError as error:
            reason = f"{what}: {file} is not what is needed ({error.reason or error})"
            raise OSError(errno.EINVAL, reason) from error
        except OSError as error:
            reason = f"{what}: {file} cannot be read: {error.strerror}"
            raise OSError(error.errno, reason) from error
        if self.server and self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        # Distributions differ in what they leave on.
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Writing would have to wait for reading in the middle of it.
        context.options |= ssl.OP_NO_RENEGOTIATION
        return context

    async def shake_hands(
        self, stream: ByteStream, context: ssl.SSLContext, plug: StreamPlug
    ) -> None:
        """Do it as a client, and give the plug its channel then.

        Raises:
            OSError: It failed.
        """
        over = asyncio.Event()
        errors: list[OSError] = []

        def on_ready() -> None:
            plug.connect(tls)
            over.set()

        def on_lost(error: OSError | None) -> None:
            assert error is not None  # during a handshake the end is one
            errors.append(error)
            over.set()

        tls = TlsStream(stream, context, server_name=self.name, on_ready=on_ready)
        tls.on_lost = on_lost
        tls.start()
        await over.wait()
        if errors:
            raise errors[0]


class TlsStream:
    """A `Channel` on top of a `ByteStream`.

    Args:
        stream: Taken over.
        context: Certificates, and what is asked of the other side's.
        server_name: Whom a client wants to talk to; None for a server.
        on_ready: Called when the handshake is done, before anything has come. Without
            it `on_lost` is called.
    """

    def __init__(
        self,
        stream: ByteStream,
        context: ssl.SSLContext,
        *,
        server_name: str | None,
        on_ready: Callable[[], None],
    ) -> None:
        self.on_data: Callable[[bytes], None] = lambda _: None
        self.on_lost: Callable[[OSError | None], None] = lambda _: None
        self._stream = stream
        self._on_ready = on_ready
        self._shaking_hands = True
        self._started = self._over = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )

    @property
    def on_full(self) -> Callable[[bool], None]:
        """See `Channel`; the stream below knows."""
        return self._stream.on_full

    @on_full.setter
    def on_full(self, callback: Callable[[bool], None]) -> None:
        self._stream.on_full = callback

    def start(self) -> None:
        """See `Channel.start`; begins the handshake."""
        if not self._started:
            self._started = True
            self._stream.on_data = self._on_encrypted
            self._stream.on_lost = self._on_stream_lost
            self._stream.start()
            self._on_encrypted(b"")

    def write(self, data: bytes | bytearray, /) -> None:
        """See `Channel.write`; after the handshake."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError:
            return  # it is over, which reading tells
        self._flush()

    def pause(self) -> None:
        """See `Channel.pause`."""
        self._stream.pause()

    def resume(self) -> None:
        """See `Channel.resume`."""
        self._stream.resume()

    def release(self, *, forked: bool) -> None:
        """See `Channel.release`."""
        self._over = True
        self._stream.release(forked=forked)

    def _on_encrypted(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if self._shaking_hands:
                self._tls.do_handshake()
                self._shaking_hands = False
                self._on_ready()
            while not self._over and (data := self._tls.read(_RECORD_SIZE)):
                self.on_data(data)
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the other side shall know why
            self._lose(_in_words(error))
        else:
            self._lose(None)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._stream.write(self._outgoing.read())

    def _on_stream_lost(self, error: OSError | None) -> None:
        if error is None and self._shaking_hands:
            reason = "the other side hung up instead of finishing the TLS handshake"
            error = OSError(errno.ECONNRESET, reason)
        self._lose(error)

    def _lose(self, error: OSError | None) -> None:
        if not self._over:
            self.release(forked=False)
            self.on_lost(error)


def _in_words(error: ssl.SSLError) -> OSError:
    """Return the error as one with a number of the system's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"the certificate is not accepted: {error.verify_message}"
    else:
        words = (error.reason or str(error)).lower().replace("_", " ")
        reason = f"TLS failed: {words}"
    return OSError(errno.EPROTO, reason)
