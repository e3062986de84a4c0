"""What a stack has, as values: the dumps behind `Stack.links`, `Stack.routes`, ..."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from aioioth import _decoding, _dumps
from aioioth._iproute import find_index
from aioioth._said import number
from aioioth.errors import ConfigurationError
from aioioth.wire import rtnetlink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from aioioth._dumps import Message
    from aioioth.abc import Space
    from aioioth.iproute import Address, Link, Neighbour, Route, Rule

    _T = TypeVar("_T")

# Messages that are decoded in a turn of the loop; each takes some 15 us.
_AT_ONCE = 64

_FAMILIES = {None: (socket.AF_INET, socket.AF_INET6), 4: (socket.AF_INET,)}
_FAMILIES |= {6: (socket.AF_INET6,)}
_FAMILIES |= {each: (each,) for each in (socket.AF_INET, socket.AF_INET6)}


async def links(space: Space) -> list[Link]:
    """Return what ``ip link`` shows."""
    messages = await _dumps.dump(space, "ip link show", _dumps.LINKS)
    return await _all(messages, rtnetlink.RTM_NEWLINK, _decoding.link)


async def addresses(space: Space, dev: str | None) -> list[Address]:
    """Return what ``ip address`` shows, of one interface or all."""
    words = _words("ip address show", dev)
    request = _dumps.ADDRESSES
    if dev is not None:
        request = _dumps.addresses_of(find_index(space, dev, words))
    messages = await _dumps.dump(space, words, _dumps.LINKS, request)
    return await _all(messages, rtnetlink.RTM_NEWADDR, _decoding.address)


async def routes(space: Space, table: int | None, family: int | None) -> list[Route]:
    """Return what ``ip route`` and ``ip -6 route`` show."""
    if table is not None:
        number("table", table, 1, 0xFFFFFFFF)
    if family not in list(_FAMILIES):
        msg = f"family={family!r}: must be socket.AF_INET, socket.AF_INET6 or None"
        raise ConfigurationError(msg)
    words = f"ip route show table {'all' if table is None else table}"
    requests = [_dumps.routes_of(each, table) for each in _FAMILIES[family]]
    messages = await _dumps.dump(
        space,
        words,
        _dumps.LINKS,
        *requests,
        absent=errno.ENOENT,  # nobody has used the table
    )
    return await _all(messages, rtnetlink.RTM_NEWROUTE, _decoding.route)


async def neighbours(space: Space, dev: str | None) -> list[Neighbour]:
    """Return what ``ip neighbour`` shows, proxies included."""
    words = _words("ip neighbour show", dev)
    if dev is not None:
        find_index(space, dev, words)
    messages = await _dumps.dump(
        space, words, _dumps.LINKS, _dumps.NEIGHBOURS, _dumps.PROXIES
    )
    found = await _all(messages, rtnetlink.RTM_NEWNEIGH, _decoding.neighbour)
    return [each for each in found if dev in {None, each.dev}]


async def rules(space: Space) -> list[Rule]:
    """Return what ``ip rule`` and ``ip -6 rule`` show."""
    requests = [_dumps.rules_of(each) for each in (socket.AF_INET, socket.AF_INET6)]
    messages = await _dumps.dump(space, "ip rule show", *requests)
    return await _all(
        messages, rtnetlink.RTM_NEWRULE, lambda body, _: _decoding.rule(body)
    )


async def _all(
    messages: Sequence[Message],
    wanted: int,
    decode: Callable[[bytes, Mapping[int, str]], _T | None],
) -> list[_T]:
    """Return what all messages of a type say; the loop has its turn in between."""
    names = _decoding.names(messages)
    found = []
    for at, (kind, body) in enumerate(messages):
        if kind == wanted and (each := decode(body, names)) is not None:
            found.append(each)
        if not at % _AT_ONCE:
            await asyncio.sleep(0)
    return found


def _words(command: str, dev: str | None) -> str:
    return command if dev is None else f"{command} dev {dev}"
