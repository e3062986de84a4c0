"""What is given by hand, as one source among others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from aioioth._autoconf.findings import Findings
from aioioth.iproute import Address, Route

if TYPE_CHECKING:
    from aioioth._autoconf.wanted import Items
    from aioioth._ip import IPAddress

_T = TypeVar("_T")


def findings_of(dev: str, items: Items) -> Findings:
    """Return what was given for an interface."""
    return Findings(
        tuple(Address(each, dev) for each in items.ip),
        tuple(Route("default", via=_bare(each), dev=dev) for each in items.gw),
        items.dns,
        items.domain,
    )


def merged(held: Findings, new: Findings) -> Findings:
    """Return both together, what is in both once."""
    return Findings(
        _once(held.addresses, new.addresses),
        _once(held.routes, new.routes),
        _once(held.dns, new.dns),
        _once(held.domains, new.domains),
    )


def without(held: Findings, items: Items) -> Findings:
    """Return what is left when some of it is taken away."""
    ips, routers = {each.ip for each in items.ip}, {_bare(each) for each in items.gw}
    return replace(
        held,
        addresses=tuple(a for a in held.addresses if a.address.ip not in ips),
        routes=tuple(r for r in held.routes if r.via not in routers),
        dns=tuple(each for each in held.dns if each not in items.dns),
        domains=tuple(each for each in held.domains if each not in items.domain),
    )


def _bare(router: IPAddress) -> IPAddress:
    """Return a router without the interface, which is said beside it."""
    if router.version == 6 and router.scope_id is not None:
        return type(router)(int(router))
    return router


def _once(old: tuple[_T, ...], new: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys((*old, *new)))
