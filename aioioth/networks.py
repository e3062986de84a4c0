"""From a VNL to the transport that leads there.

Also the way in for transports that contain others, such as ``vlan://4{VNL}``.

Source: how libvdeplug4 finds what a text without a scheme means.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
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


@dataclass(frozen=True)
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
        vnl: A text, a path, or an object that is a transport, such as a `Switch`.

    Raises:
        VnlError: It makes no sense; the message shows where.
        UnknownSchemeError: No transport serves its scheme.
        ConfigurationError: It is something else altogether.
    """
    if _is_transport(vnl):
        return Network(None, str(vnl), vnl)
    if not isinstance(vnl, (str, os.PathLike)):
        msg = f"{vnl!r}: expected a VNL like 'vde:///tmp/sw', or a Switch"
        raise ConfigurationError(msg)
    text = os.fsdecode(vnl)
    parsed = _follow(parse_vnl(text))
    factory = load_transport(parsed.scheme or "vde")
    try:
        transport = factory(parsed.address)
    except VnlError as error:
        raise error.inside(_before(text, parsed)) from None
    return Network(parsed.interface, str(parsed), transport)


def find_nested(address: Address) -> Network:
    """Find the transport for the VNL in braces; see `find_network`.

    Raises:
        VnlError: It makes no sense; the place is in the whole address.
        UnknownSchemeError: No transport serves its scheme.
    """
    try:
        found = find_network(address.nested)
    except VnlError as error:
        raise error.inside(*address.around_nested()) from None
    if found.interface is not None:
        address.refuse("{", "an interface's name belongs in front of the whole VNL")
    return found


def _before(text: str, parsed: Vnl) -> str:
    """Return what stands before the address; it may come from a file."""
    if text.endswith(parsed.address):
        return text.removesuffix(parsed.address)
    return str(parsed).removesuffix(parsed.address)


def _follow(vnl: Vnl) -> Vnl:
    """Find out what a text without a scheme means."""
    if vnl.scheme is not None:
        return vnl
    path = Path(vnl.address) if vnl.address else _default()
    if path is None:
        return vnl
    if not path.is_file():
        return Vnl(vnl.interface, None, str(path) if not vnl.address else vnl.address)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            line = file.readline(_MAX_LINE).removesuffix("\n")
    except OSError as error:
        msg = f"{path}: cannot be read for a VNL: {error.strerror}"
        raise ConfigurationError(msg) from error
    inner = parse_vnl(line)
    return Vnl(vnl.interface or inner.interface, inner.scheme, inner.address)


def _default() -> Path | None:
    for name in _DEFAULTS:
        path = Path.home() / name
        if path.exists():
            return path
    return None


def _is_transport(vnl: object) -> TypeGuard[FrameTransport]:
    # That it has an `open` says little: so has a file, and so has a class.
    return (
        isinstance(vnl, FrameTransport)
        and not isinstance(vnl, type)
        and iscoroutinefunction(vnl.open)
    )
