"""Every other scheme: whatever the system's libvdeplug has a plug-in for.

``slirp://[/OPTION...]``, a network with Internet access without root, is one of those;
its options are libvdeplug's. Other schemes come here if nobody else serves them.

The library runs in a process of its own, so that a network that is stuck holds nobody
up. Frames cost more than with a transport of ours, and what the library cannot deliver
is not counted. Debian: ``apt install libvdeplug2 libvdeplug-slirp``.

Source: the behaviour of libvdeplug 4.0.1; vde_plug(1), libvdeplug_slirp(1).
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from aioioth.errors import BrokenTransportError, HandshakeTimeoutError
from aioioth_transports._child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

_LIBRARY = "libvdeplug.so.2"
_HELPER = os.fspath(Path(__file__).with_name("_vdeplug_helper.py"))
_CACHE = "/etc/ld.so.cache"
_USUAL = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib")
_SCHEME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")

_OPEN_SECONDS = 10.0
# It ends by itself within one.
_GRACE_SECONDS = 1.5

_MAX_ANSWER = 4096
_BUFFER_SIZE = 1 << 20

_MTU = 9216
# What slirp tells its clients; larger ones it takes and may not pass on.
_SLIRP_MTU = 1500


class LibvdeplugTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        vnl: All of it, since the library reads the scheme.
    """

    def __init__(self, vnl: str, *, mtu: int = _MTU) -> None:
        self._vnl = vnl
        self._mtu = mtu

    @staticmethod
    def why_not(scheme: str) -> str | None:
        """Return why the library does not serve a scheme; None if it does."""
        directory = _find_library()
        if directory is None:
            return (
                "libvdeplug, which has more of them, is not installed. Debian: apt "
                "install libvdeplug2"
            )
        name = f"libvdeplug_{scheme}.so"
        if _SCHEME.fullmatch(scheme) and _has_plugin(name, directory):
            return None
        return f"libvdeplug has no plug-in for it either: there is no {name}"

    async def open(self, label: str) -> LibvdeplugPlug:
        """Have the library open it; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: The library refuses, or ends.
            HandshakeTimeoutError: The library did not answer within 10 seconds.
        """
        scheme = self._vnl.partition("://")[0]
        if (reason := self.why_not(scheme)) is not None:
            raise BrokenTransportError(self._vnl, reason, errno=errno.EPROTONOSUPPORT)
        with ExitStack() as undo:
            control, their_control = _pair(socket.SOCK_STREAM, undo)
            data, their_data = _pair(socket.SOCK_DGRAM, undo)
            with their_control, their_data:
                number = their_data.fileno()
                child = Child(
                    self._vnl,
                    [
                        *(sys.executable, "-I", "-S", _HELPER),
                        *(str(number), self._vnl, label),
                    ],
                    stdin=their_control.fileno(),
                    pass_fds=[number],
                    own_session=True,
                    asked_by=None,
                    grace=_GRACE_SECONDS,
                )
            undo.callback(child.release)
            # Before that: it ends when its standard input does.
            undo.callback(control.close)
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    await self._until_open(control, child)
            except TimeoutError:
                reason = f"libvdeplug did not open it within {_OPEN_SECONDS:g} s"
                raise HandshakeTimeoutError(self._vnl, reason) from None
            plug = LibvdeplugPlug(control, data, child, self._mtu)
            undo.pop_all()
        return plug

    async def _until_open(self, control: socket.socket, child: Child) -> None:
        loop = asyncio.get_running_loop()
        answer = b""
        while answer[:1] != b"+":
            try:
                more = await loop.sock_recv(control, _MAX_ANSWER)
            except ConnectionResetError:
                more = b""
            answer += more
            if not more:
                break
        else:
            return
        code, _, words = answer[1:].partition(b" ")
        if answer[:1] == b"-" and code.isdigit():
            reason = f"libvdeplug: {words.decode(errors='replace')}"
            raise BrokenTransportError(self._vnl, reason, errno=int(code) or None)
        reason = f"libvdeplug's process has ended: {await child.ended()}"
        raise BrokenTransportError(self._vnl, reason)


class SlirpTransport(LibvdeplugTransport):
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``[/OPTION...]``, which libvdeplug reads.
    """

    def __init__(self, address: str) -> None:
        changed = re.search("/m[rt]u=", address)
        super().__init__(f"slirp://{address}", mtu=_MTU if changed else _SLIRP_MTU)

    @override
    @staticmethod
    def why_not(scheme: str) -> str | None:
        """Return why the library does not serve it; None if it does."""
        reason = LibvdeplugTransport.why_not(scheme)
        if reason is None:
            return None
        return (
            "it is libvdeplug's plug-in for slirp, which is not installed. Debian: apt "
            "install libvdeplug2 libvdeplug-slirp"
        )


class LibvdeplugPlug:
    """See `aioioth.abc.Plug`. Owns the process and the way to it."""

    def __init__(
        self, control: socket.socket, data: socket.socket, child: Child, mtu: int
    ) -> None:
        self.mtu = mtu
        self._control, self._data, self._child = control, data, child
        self._pid = os.getpid()
        # Straight to the system calls; there is nothing to add for a frame.
        self.recv_into: Callable[[memoryview], int] = data.recv_into
        self.send: Callable[[Buffer], int] = data.send

    def fileno(self) -> int:
        """Return the data socket's descriptor."""
        return self._data.fileno()

    def hangup_fileno(self) -> int:
        """Return the control socket's: it ends with the network."""
        return self._control.fileno()

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`."""
        self._control.close()
        self._data.close()
        if os.getpid() == self._pid:
            self._child.release()
        else:
            self._child.forget()


def _pair(
    kind: socket.SocketKind, undo: ExitStack
) -> tuple[socket.socket, socket.socket]:
    """Return our end of a way to the process, which does not block, and its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    undo.callback(ours.close)
    undo.callback(theirs.close)
    ours.setblocking(False)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_SIZE)
    return ours, theirs


def _find_library() -> str | None:
    """Return the directory of the library; None if it is not there.

    It is not loaded for that.
    """
    for directory in _library_path():
        if _exists(directory, _LIBRARY):
            return directory
    path = _cached(_LIBRARY)
    if path is not None:
        return os.path.dirname(path)  # noqa: PTH120  (as text)
    for directory in _usual():
        if _exists(directory, _LIBRARY):
            return directory
    return None


def _has_plugin(name: str, library: str) -> bool:
    """Tell whether the library finds a plug-in: it looks in the same places."""
    return any(_exists(each, name) for each in _plugin_places(library)) or (
        "VDEPLUGIN_PATH" not in os.environ and _cached(name) is not None
    )


def _exists(directory: str, name: str) -> bool:
    try:
        return Path(directory, name).exists()
    except OSError:  # a name that is too long, or a place that we may not look into
        return False


def _plugin_places(library: str) -> Iterator[str]:
    only = os.environ.get("VDEPLUGIN_PATH")
    if only is not None:
        yield from filter(None, only.split(":"))
        return
    yield from (f"{library}/vdeplug", library)
    yield from (f"{each}/vdeplug" for each in _library_path())
    yield from ("/lib/vdeplug", "/usr/lib/vdeplug")
    # The dynamic linker's own search.
    yield from _library_path()
    yield from _usual()


def _library_path() -> list[str]:
    return [each for each in os.environ.get("LD_LIBRARY_PATH", "").split(":") if each]


def _usual() -> Iterator[str]:
    multiarch = getattr(sys.implementation, "_multiarch", "")
    for each in _USUAL:
        if multiarch:
            yield f"{each}/{multiarch}"
        yield each


def _cached(name: str) -> str | None:
    """Return where the dynamic linker's cache says that a library is (ldconfig(8))."""
    with suppress(OSError):
        text = Path(_CACHE).read_bytes()
        match = re.search(rb"\0(/[^\0]*/" + re.escape(name.encode()) + rb")\0", text)
        if match is not None and os.path.exists(match[1]):  # noqa: PTH110  (bytes)
            return os.fsdecode(match[1])
    return None
