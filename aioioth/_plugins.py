"""Finding what is registered as an entry point."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from aioioth.errors import UnknownPluginError, UnknownSchemeError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from aioioth.abc import StackKind, TransportFactory

TRANSPORTS = "aioioth.transports"
STACKS = "aioioth.stacks"


@cache
def _registered(group: str) -> EntryPoints:
    # Importing this takes as long as all of aioioth, and reading it is not free either.
    from importlib.metadata import entry_points

    return entry_points(group=group)


def _load(group: str, name: str, error: type[UnknownPluginError]) -> Any:  # noqa: ANN401
    registered = _registered(group)
    if name not in registered.names:
        raise error(group, name, sorted(registered.names))
    return registered[name].load()


def load_transport(scheme: str) -> TransportFactory:
    """Import the transport that serves ``scheme``, and no other.

    Raises:
        UnknownSchemeError: No distribution registers it.
    """
    factory: TransportFactory = _load(TRANSPORTS, scheme, UnknownSchemeError)
    return factory


def load_kind(name: str) -> StackKind:
    """Import the kind of stack that is registered as ``name``.

    Raises:
        UnknownPluginError: No distribution registers it.
    """
    kind: StackKind = _load(STACKS, name, UnknownPluginError)
    return kind
