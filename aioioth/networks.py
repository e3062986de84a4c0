"""From a VNL to the transport that leads there.

Also the way in for transports that contain others, such as ``vlan://4{VNL}``.

Source: how libvdeplug4 finds what a text without a scheme means.
"""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from aioioth._plugins import load_transport
from aioioth.abc import FrameTransport
from aioioth.errors import ConfigurationError, VnlError
from aioioth.vnl import Vnl, parse_vnl

if TYPE_CHECKING:
    from aioioth.vnl import Address

__all__ = ["Network", "find_nested", "find_network"]

# What no text at all means, the first that exists; a switch or a file with a VNL.
_DEFAULTS = (".vdeplug/default", ".vde2/default.switch")

# A line that is longer than this is no VNL; the file may be anything.
_MAX_LINE = 4096

# More networks inside each other than anybody needs, and a file may name itself.
_MAX_DEPTH = 16
_depth = ContextVar("_depth", default=0)


@dataclass(frozen=True, slots=True)
class Network:
    """A virtual network that was named, and the way to it.

    Attributes:
        interface: Name of the interface that it is meant for; None if it was not said.
        vnl: Its name in words.
        transport: The way to it.
    """

    interface: str | None
    vnl: str
    transport: FrameTransport


def find_network(vnl: object) -> Network:
    """Find the transport for a VNL; nothing is opened yet.

    A text without ``://`` is the directory of a VDE switch, or a file whose first line
    is a VNL. No text at all is ``~/.vdeplug/default`` or else
    ``~/.vde2/default.switch``, if there is one, either of both kinds.

    Args:
        vnl: A text; a path, whatever characters are in it; an object that is a
            transport, such as a `Switch`; or what this function has returned.

    Raises:
        VnlError: It makes no sense; the message shows where.
        UnknownSchemeError: No transport serves its scheme.
        ConfigurationError: It is something else altogether, or a file without a VNL.
    """
    if isinstance(vnl, Network):
        return vnl
    if _is_transport(vnl):
        return Network(None, str(vnl), vnl)
    if isinstance(vnl, os.PathLike):
        return _find_path(os.fsdecode(vnl), None)
    if not isinstance(vnl, str):
        msg = f"{vnl!r}: expected a VNL like 'vde:///tmp/sw', or a Switch"
        raise ConfigurationError(msg)
    parsed = parse_vnl(vnl)
    if parsed.scheme is None:
        if not parsed.address and (default := _find_default()) is not None:
            return _find_path(default, parsed.interface)
        if os.path.isfile(parsed.address):  # noqa: PTH113  (False too if not permitted)
            return _find_file(parsed.address, parsed.interface)
    return _load(vnl, parsed)


def find_nested(address: Address) -> Network:
    """Find the transport for the VNL in braces; see `find_network`.

    Raises:
        VnlError: It makes no sense; the place is in the whole address.
        UnknownSchemeError: No transport serves its scheme.
        ConfigurationError: It is the name of a file without a VNL.
    """
    assert address.nested is not None  # parsed with nested=True
    depth = _depth.get()
    if depth == _MAX_DEPTH:
        address.refuse("{", f"expected at most {_MAX_DEPTH} networks inside each other")
    outside = _depth.set(depth + 1)
    try:
        found = find_network(address.nested)
    except VnlError as error:
        if error.vnl != address.nested:
            raise  # about the text of a file, which shows there alone
        raise error.inside(*address.around_nested()) from None
    finally:
        _depth.reset(outside)
    if found.interface is not None:
        name = repr(found.interface)
        address.refuse("{", f"interface {name}: name it in front of the whole VNL")
    return found


def _load(text: str, parsed: Vnl) -> Network:
    factory = load_transport(parsed.scheme or "vde")
    try:
        transport = factory(parsed.address)
    except VnlError as error:
        if error.vnl != parsed.address:
            raise  # as in find_nested
        raise error.inside(text.removesuffix(parsed.address)) from None
    return Network(parsed.interface, str(parsed), transport)


def _find_path(path: str, interface: str | None) -> Network:
    if os.path.isfile(path):  # noqa: PTH113  (False too if not permitted)
        return _find_file(path, interface)
    literal = re.sub(r"""(['"\\%\[])""", r"\\\1", path)
    return _load(literal, Vnl(interface, None, literal))


def _find_file(path: str, interface: str | None) -> Network:
    line = _read_line(path)
    try:
        parsed = parse_vnl(line)
        if not (parsed.scheme or parsed.address):
            reason = "expected a VNL in the first line"
            raise VnlError(line, len(line), reason)
        found = _load(line, parsed)
    except ConfigurationError as error:
        named = f"{path}: "  # maybe already: a file may name itself
        if (
            isinstance(error, VnlError)
            and error.vnl == line
            and not error.reason.startswith(named)
        ):
            raise VnlError(line, error.position, named + error.reason) from None
        error.add_note(f"The VNL is the first line of {path}.")
        raise
    return replace(found, interface=interface or parsed.interface)


def _read_line(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            line = file.readline(_MAX_LINE + 1)
    except OSError as error:
        msg = f"{path}: cannot be read for a VNL: {error.strerror}"
        raise ConfigurationError(msg) from error
    if len(line) > _MAX_LINE or b"\0" in line:
        msg = f"{path}: expected a VNL in the first line, or the directory of a switch"
        raise ConfigurationError(msg)
    # Who edits a file by hand does not see the blanks, nor the CR of a CR LF.
    return os.fsdecode(line.strip())


def _find_default() -> str | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None  # HOME is not set, and the user not known to the system
    for name in _DEFAULTS:
        path = home / name
        if os.path.lexists(path):
            return str(path)
    return None


def _is_transport(vnl: object) -> TypeGuard[FrameTransport]:
    # That it has an `open` says little: so has a file, and so has a class.
    return (
        isinstance(vnl, FrameTransport)
        and not isinstance(vnl, type)
        and iscoroutinefunction(vnl.open)
    )
