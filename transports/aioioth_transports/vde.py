"""``vde://[DIRECTORY][[OPTIONS]]``: a port of a VDE switch.

Without a directory it is ``/run/vde.ctl``, or else ``/tmp/vde.ctl``. Options, separated
by ``/``: ``port=N`` (or just ``N``; 0 is the management port), ``portgroup=NAME`` (or
just ``NAME``), ``group=NAME`` (who else may use our data socket) and ``mode=OCTAL``.

Source: the VDE control protocol as spoken by Debian's vde_switch 2.3.2 and vde_plug
4.0.1; `aioioth.wire.vde`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import re
import select
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from aioioth.errors import (
    BrokenTransportError,
    HandshakeTimeoutError,
)
from aioioth.vnl import parse_bracket
from aioioth.wire import vde
from aioioth_transports._groups import find_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from aioioth.vnl import Address

_DEFAULTS = (Path("/run/vde.ctl"), Path("/tmp/vde.ctl"))  # noqa: S108  (VDE's own default)
_OPTIONS = ("port", "portgroup", "group", "mode")

# A switch answers within a millisecond; Debian 12's never answers a bad request.
_HANDSHAKE_SECONDS = 3.0
_RETRY_SECONDS = 0.05
_LATE_MILLISECONDS = 2

# vde_switch has a buffer of 1518 bytes and silently cuts longer frames off. It names
# its data sockets PORT.FD; vde_plug's switch, which takes 9234 bytes, names them fdN.
_SWITCH_NAME = re.compile(rb"\d{3,}\.\d+")
_SWITCH_MTU = 1500
_NODE_MTU = 9216

_numbers = itertools.count()

_UCRED = struct.Struct("=iII")


class VdeTransport:
    """See `aioioth.abc.FrameTransport`.

    Args:
        address: ``[DIRECTORY][[OPTIONS]]``.

    Raises:
        ConfigurationError: An option is unknown or has a bad value.
    """

    def __init__(self, address: str) -> None:
        parsed = parse_bracket(address, options=_OPTIONS, unnamed=True)
        options = parsed.options
        self._vnl = f"vde://{address}"
        self._directory = Path(parsed.base) if parsed.base else None
        # A lone value is a port if it looks like a number, and else a port group.
        is_number = options.get("", "").lstrip("+-").isdigit()
        self._port = None
        if "port" in options or is_number:
            name = "port" if "port" in options else ""
            self._port = parsed.integer(name, 0, low=0, high=vde.MAX_PORT)
        self._portgroup = _find_portgroup(parsed, "portgroup")
        if self._portgroup is None and not is_number:
            self._portgroup = _find_portgroup(parsed, "")
        self._group = find_group(parsed, "group")
        self._mode = parsed.octal("mode", 0) if "mode" in options else None

    async def open(self, label: str) -> VdePlug:
        """Connect to the switch; see `aioioth.abc.FrameTransport.open`.

        Raises:
            BrokenTransportError: There is no switch, or it refuses.
            HandshakeTimeoutError: The switch did not answer within 3 seconds.
        """
        directory = self._find_directory()
        with ExitStack() as undo:
            ctl = undo.enter_context(_unix_socket(socket.SOCK_STREAM))
            undo.callback(_read_late_reply, ctl)
            data = undo.enter_context(_unix_socket(socket.SOCK_DGRAM))
            try:
                async with asyncio.timeout(_HANDSHAKE_SECONDS):
                    await self._connect(ctl, directory)
                    with contextlib.closing(self._bind(ctl, data, directory)) as name:
                        answer = await self._shake_hands(ctl, name.name, label)
                    self._connect_data(data, answer)
            except TimeoutError:
                raise HandshakeTimeoutError(self._vnl, self._silence()) from None
            undo.pop_all()
        mtu = (
            _SWITCH_MTU
            if _SWITCH_NAME.fullmatch(answer.rpartition(b"/")[2])
            else _NODE_MTU
        )
        return VdePlug(ctl, data, mtu)

    def _silence(self) -> str:
        told = f"the switch did not answer within {_HANDSHAKE_SECONDS:g} s"
        if self._port is not None:
            return (
                f"{told}. vde_switch is silent when port {self._port} does not exist "
                f"or belongs to somebody else: see its 'port/print', or let it choose"
            )
        return f"{told}. It may be stopped, or out of ports"

    def _find_directory(self) -> Path:
        candidates = _DEFAULTS if self._directory is None else (self._directory,)
        for directory in candidates:
            if os.path.isdir(directory):  # noqa: PTH112  (False too if not permitted)
                return directory
        tried = " or ".join(map(str, candidates))
        start = f"vde_switch -d -s {candidates[-1]} -p {candidates[-1]}.pid"
        try:
            candidates[-1].stat()
        except PermissionError as error:
            reason = f"you may not look into {candidates[-1].parent}"
            raise self._broken(error, reason) from error
        except OSError:
            pass  # it is not there, as said below
        else:
            reason = f"{candidates[-1]} is not the directory of a VDE switch"
            raise BrokenTransportError(self._vnl, reason, errno=errno.ENOTDIR)
        reason = f"there is no VDE switch at {tried}. Start one: {start}"
        raise BrokenTransportError(self._vnl, reason, errno=errno.ENOENT)

    async def _connect(self, ctl: socket.socket, directory: Path) -> None:
        path = directory / (self._portgroup or "ctl")
        while True:
            try:
                ctl.connect(os.fspath(path))
            except BlockingIOError:
                # The switch's backlog is full. For UNIX sockets that is no "in
                # progress": the loop's sock_connect would take it for success.
                await asyncio.sleep(_RETRY_SECONDS)
            except FileNotFoundError as error:
                kind = "port group" if self._portgroup else "control"
                reason = f"{directory} has no {kind} socket {path.name!r}"
                raise self._broken(error, reason) from error
            except ConnectionRefusedError as error:
                reason = (
                    f"nobody answers at {path}: the switch has ended. Start it again"
                )
                raise self._broken(error, reason) from error
            except PermissionError as error:
                reason = (
                    f"you may not use {path}: ask for membership in its group, or "
                    f"start the switch with '-m 0666'"
                )
                raise self._broken(error, reason) from error
            except OSError as error:
                raise self._broken(
                    error, f"{path}: {error.strerror or error}"
                ) from error
            else:
                return

    def _broken(self, error: OSError, reason: str) -> BrokenTransportError:
        return BrokenTransportError(self._vnl, reason, errno=error.errno)

    def _bind(
        self, ctl: socket.socket, data: socket.socket, directory: Path
    ) -> _DataName:
        """Give our data socket the name that the switch will connect to.

        An abstract name leaves nothing behind whatever happens. A path is needed when
        the switch lives in another network namespace, or permissions are asked for.
        """
        number = f"{os.getpid():05}-{next(_numbers):05}"
        plain = self._group is None and self._mode is None
        socket_path = directory / (self._portgroup or "ctl")
        if plain and _same_network_namespace(ctl, socket_path):
            # The switch connects to all 108 bytes of it.
            padded = (b"\0aioioth/" + number.encode()).ljust(vde.SUN_PATH_SIZE, b"\0")
            name = _DataName(padded)
            data.bind(name.name)
            return name
        last: OSError | None = None
        for place in (f"{directory.resolve()}/.{number}", f"/tmp/vde.{number}"):  # noqa: S108  (VDE's own fallback)
            try:
                data.bind(place)
            except OSError as error:
                last = error
                continue
            name = _DataName(place.encode(), remove=place)
            try:
                self._set_permissions(place)
            except OSError as error:
                name.close()
                raise self._broken(error, f"{place}: {error.strerror}") from error
            return name
        assert last is not None
        raise self._broken(last, f"no place for our data socket: {last}") from last

    def _set_permissions(self, place: str) -> None:
        if self._group is not None:
            os.chown(place, -1, self._group)
            Path(place).chmod(0o770 if self._mode is None else self._mode)
        elif self._mode is not None:
            Path(place).chmod(self._mode)
        else:
            # As VDE's own library: the switch may belong to somebody else.
            Path(place).chmod(0o777)

    async def _shake_hands(self, ctl: socket.socket, name: bytes, label: str) -> bytes:
        loop = asyncio.get_running_loop()
        # The switch cuts off what is longer; who we are matters more than the label.
        description = f"{label[:80]} user={os.geteuid()} pid={os.getpid()}"
        request = vde.pack_request(name, port=self._port, description=description)
        try:
            await loop.sock_sendall(ctl, request)
            reply = b""
            while len(reply) < vde.REPLY_SIZE:
                more = await loop.sock_recv(ctl, vde.REPLY_SIZE - len(reply))
                reply += more
                if not more or not vde.may_be_address(reply):
                    break
        except OSError as error:
            raise self._broken(error, f"the switch hung up: {error}") from error
        if not reply:
            reason = "the switch hung up without an answer"
            if self._port is not None:
                reason += f": port {self._port} is taken or missing, see 'port/print'"
            raise BrokenTransportError(self._vnl, reason, errno=errno.ECONNREFUSED)
        try:
            return vde.unpack_address(reply)
        except ValueError as error:
            reason = f"whatever listens there does not speak VDE ({error})"
            raise BrokenTransportError(self._vnl, reason, errno=errno.EPROTO) from error

    def _connect_data(self, data: socket.socket, answer: bytes) -> None:
        try:
            data.connect(answer)
            if self._mode is not None:
                with contextlib.suppress(OSError):
                    Path(os.fsdecode(answer)).chmod(self._mode)
        except OSError as error:
            reason = f"cannot reach the switch's data socket: {error}"
            raise self._broken(error, reason) from error


def _read_late_reply(ctl: socket.socket) -> None:
    """Read what the switch may have answered to a handshake that was given up.

    Our data socket is closed, so a request that the switch comes to now fails. But one
    that it has granted already it keeps for ever if the answer is not read, since it
    sees a reset then instead of the end of file (vde_switch 2.3.2). It is a matter of
    microseconds; a switch that is stopped is not waited for.
    """
    waiting = select.poll()
    waiting.register(ctl, select.POLLIN)
    if waiting.poll(_LATE_MILLISECONDS):
        with contextlib.suppress(OSError):
            ctl.recv(vde.REPLY_SIZE)


class VdePlug:
    """See `aioioth.abc.Plug`. Owns the control and the data socket."""

    def __init__(self, ctl: socket.socket, data: socket.socket, mtu: int) -> None:
        self.mtu = mtu
        self._ctl = ctl
        self._data = data
        # The two data sockets are connected to each other, so what bounds the frames on
        # their way is our send buffer: the most that the system gives.
        data.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        # Straight to the system calls; there is nothing to add for a frame.
        self.recv_into: Callable[[memoryview], int] = data.recv_into
        self.send: Callable[[Buffer], int] = data.send

    def fileno(self) -> int:
        """Return the data socket's descriptor."""
        return self._data.fileno()

    def frame_socket(self) -> int:
        """See `aioioth.abc.FrameSocket.frame_socket`."""
        return self._data.fileno()

    def hangup_fileno(self) -> int:
        """Return the control socket's: the switch never writes there, only closes."""
        return self._ctl.fileno()

    def close(self) -> None:
        """See `aioioth.abc.Plug.close`; the switch frees the port at once."""
        self._data.close()
        self._ctl.close()


def _find_portgroup(address: Address, option: str) -> str | None:
    name = address.options.get(option)
    if name is not None and (name in {"", ".", ".."} or "/" in name):
        address.refuse(option, "port group: expected a file's name, without '/'")
    return name


class _DataName:
    """The name of a data socket, removed when it is no longer needed."""

    def __init__(self, name: bytes, *, remove: str | None = None) -> None:
        self.name = name
        self._remove = remove

    def close(self) -> None:
        if self._remove is not None:
            with contextlib.suppress(OSError):
                Path(self._remove).unlink()


def _unix_socket(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.setblocking(False)
    return sock


def _same_network_namespace(ctl: socket.socket, path: Path) -> bool:
    """Tell whether the switch finds an abstract name of ours.

    It listens in our network namespace, since the list is of ours; but that is not all:
    vdens listens, and then goes into a namespace of its own, where it opens its data
    sockets. So we look where the process is that listened. If that has ended, the
    switch went into the background, and not far.
    """
    listening = b" 00010000 "  # __SO_ACCEPTCON; our own connection is listed as well
    name = b" " + os.fsencode(path.resolve())
    lines = Path("/proc/self/net/unix").read_bytes().splitlines()
    if not any(line.endswith(name) and listening in line for line in lines):
        return False
    credentials = ctl.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, _, _ = _UCRED.unpack(credentials)
    try:
        theirs = Path(f"/proc/{pid}/ns/net").stat()
    except FileNotFoundError:
        return True
    except PermissionError:  # somebody else's, whom we may not look at
        return False
    ours = Path("/proc/self/ns/net").stat()
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
