"""Finding what is registered as an entry point."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Protocol

from aioioth.errors import UnknownPluginError, UnknownSchemeError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from aioioth.abc import FrameTransport, StackKind, TransportFactory

TRANSPORTS = "aioioth.transports"
STACKS = "aioioth.stacks"

# The name of the transport that serves schemes which nobody else serves.
FALLBACK = "*"


class _Fallback(Protocol):
    """What is registered under that name: a factory that takes the whole VNL."""

    def __call__(self, vnl: str, /) -> FrameTransport: ...

    def why_not(self, scheme: str, /) -> str | None:
        """Return why it does not serve a scheme, in words; None if it does."""


@cache
def _registered(group: str) -> EntryPoints:
    # Importing this takes as long as all of aioioth, and reading it is not free either.
    from importlib.metadata import entry_points

    return entry_points(group=group)


def load_transport(scheme: str) -> TransportFactory:
    """Import the transport that serves ``scheme``, and no other.

    If none is registered for it, that is the one registered as ``*``, should it know
    the scheme.

    Raises:
        UnknownSchemeError: No distribution registers it.
    """
    registered = _registered(TRANSPORTS)
    names = registered.names - {FALLBACK}
    if scheme in names:
        factory: TransportFactory = registered[scheme].load()
        return factory
    hint = ""
    if FALLBACK in registered.names:
        fallback: _Fallback = registered[FALLBACK].load()
        reason = fallback.why_not(scheme)
        if reason is None:
            return lambda address: fallback(f"{scheme}://{address}")
        hint = reason
    raise UnknownSchemeError(TRANSPORTS, scheme, sorted(names), hint=hint)


def load_kind(name: str) -> StackKind:
    """Import the kind of stack that is registered as ``name``.

    Raises:
        UnknownPluginError: No distribution registers it.
    """
    registered = _registered(STACKS)
    if name not in registered.names:
        raise UnknownPluginError(STACKS, name, sorted(registered.names))
    kind: StackKind = registered[name].load()
    return kind
