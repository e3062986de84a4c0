"""Queueing disciplines of a stack, by pyroute2."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

from aioioth._iproute import find_index
from aioioth.errors import ConfigurationError
from aioioth.iproute import Qdisc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioioth._running import Running

# What pyroute2 raises where it cannot make anything of its arguments.
NOT_UNDERSTOOD = (AttributeError, LookupError, TypeError, ValueError, struct.error)

_ROOT = 0xFFFFFFFF
_INGRESS = 0xFFFFFFF1
_CLASS = re.compile("([0-9a-f]{1,4}):([0-9a-f]{0,4})", re.IGNORECASE)


async def change(
    running: Running, command: str, dev: str, kind: str, options: Mapping[str, Any]
) -> None:
    """Do ``tc qdisc add`` or ``replace``; see `Stack.add_qdisc`."""
    told = " ".join(f"{word} {value}" for word, value in options.items())
    words = f"tc qdisc {command} dev {dev} {kind} {told}".rstrip()
    index = find_index(running.space, dev, words)
    netlink = running.netlink
    with netlink.translated(words):
        try:
            await netlink.tc(command, kind, index=index, **options)
        except NOT_UNDERSTOOD as error:
            msg = f"{words}: pyroute2 wants other options: {error!r}"
            raise ConfigurationError(msg) from error


async def delete(running: Running, dev: str, parent: str) -> None:
    """Do ``tc qdisc del``; see `Stack.del_qdisc`."""
    number = _number(parent)
    words = f"tc qdisc del dev {dev} {_where(parent)}"
    index = find_index(running.space, dev, words)
    netlink = running.netlink
    with netlink.translated(words):
        await netlink.tc("del", index=index, parent=number)


async def listed(running: Running, dev: str | None) -> list[Qdisc]:
    """Do ``tc qdisc show``; see `Stack.qdiscs`."""
    words = "tc qdisc show" if dev is None else f"tc qdisc show dev {dev}"
    wanted = None if dev is None else find_index(running.space, dev, words)
    netlink = running.netlink
    with netlink.translated(words):
        names = {
            link["index"]: link.get("ifname")
            async for link in await netlink.get_links()
        }
        return [
            _decoded(message, names[message["index"]])
            async for message in await netlink.get_qdiscs()
            if message["index"] in names and wanted in {None, message["index"]}
        ]


def _decoded(message: Any, dev: str) -> Qdisc:  # noqa: ANN401  (pyroute2 has no types)
    options = message.get("options")
    return Qdisc(
        kind=message.get("kind"),
        dev=dev,
        handle=_text(message["handle"]),
        parent=_text(message["parent"]),
        options=dict(options["attrs"]) if options and "attrs" in options else {},
    )


def _text(number: int) -> str:
    if number in {_ROOT, _INGRESS}:
        return "root" if number == _ROOT else "ingress"
    minor = f"{number & 0xFFFF:x}" if number & 0xFFFF else ""
    return f"{number >> 16:x}:{minor}"


def _number(parent: object) -> int:
    if parent in ("root", "ingress"):
        return _ROOT if parent == "root" else _INGRESS
    numbers = _CLASS.fullmatch(parent) if isinstance(parent, str) else None
    if numbers is None:
        msg = f"parent={parent!r}: must be 'root', 'ingress' or a class like '1:10'"
        raise ConfigurationError(msg)
    return int(numbers[1], 16) << 16 | int(numbers[2] or "0", 16)


def _where(parent: str) -> str:
    return parent if parent in {"root", "ingress"} else f"parent {parent}"
