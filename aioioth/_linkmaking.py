"""Links of a stack that are no interfaces on virtual networks: made, set, deleted."""

from __future__ import annotations

import asyncio
import errno
import inspect
from typing import TYPE_CHECKING, Any

from aioioth._ip import parse_address, parse_mac
from aioioth._iproute import LARGEST_MTU, Request, carry_out, find_index
from aioioth._qdiscs import NOT_UNDERSTOOD
from aioioth._said import link_name, number
from aioioth.errors import ConfigurationError, NetlinkError
from aioioth.wire import linkkinds, rtnetlink

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from aioioth._running import Running

    Find = Callable[[str], int]


async def add(
    running: Running,
    name: str,
    kind: str,
    common: Mapping[str, Any],
    details: Mapping[str, Any],
) -> None:
    """Do ``ip link add``; see `Stack.add_link`.

    Args:
        running: The stack.
        name: The link's.
        kind: Its kind.
        common: What any link can have: mac, mtu, link, master, up; None for what was
            not said.
        details: What those of its kind can have.
    """
    link_name(name)
    if kind in ("tun", "tap", "tuntap"):
        msg = (
            f"link {name!r} of kind {kind!r}: its frames would have to be read by "
            f"somebody. Interfaces on a network come from VNLs: use add_interface"
        )
        raise ConfigurationError(msg)
    said = {word: value for word, value in common.items() if value is not None}
    words = " ".join(
        [
            f"ip link add {name}",
            *(_said(word, value) for word, value in said.items()),
            f"type {kind}",
            *(_said(word, value) for word, value in details.items()),
        ]
    )

    def find(dev: str) -> int:
        return find_index(running.space, dev, words)

    try:
        if kind in list(_OWN):
            info = _described(kind, details, find)
            body = _body(name, find, said)
            request = rtnetlink.new_link(body + info)
            await carry_out(running.space, [Request(words, request)])
        else:
            await _add_by_pyroute2(running, words, name, kind, said, details, find)
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            lacks = f"this kernel has no links of the kind {kind!r}"
            raise NetlinkError(errno.EOPNOTSUPP, words, lacks) from None
        raise


async def delete(running: Running, name: str) -> None:
    """Do ``ip link del``; see `Stack.del_link`."""
    if link_name(name) in running.interfaces:
        msg = f"{name} is an interface on a virtual network: use remove_interface"
        raise ConfigurationError(msg)
    # Asked for by its name, a link that is not there is EINVAL to some kernels.
    words = f"ip link del {name}"
    index = find_index(running.space, name, words)
    request = rtnetlink.del_link(rtnetlink.link_body(index=index))
    await carry_out(running.space, [Request(words, request)])


async def change(
    running: Running, dev: str, *, name: str | None, nomaster: bool, **said: Any
) -> None:
    """Do ``ip link set``; see `Stack.set_link`."""
    if nomaster and said.get("master") is not None:
        msg = f"link {dev}: either master= or nomaster"
        raise ConfigurationError(msg)
    if name is not None:
        link_name(name)
        running.check_renaming(dev, name)
    wanted = {word: value for word, value in said.items() if value is not None}
    words = " ".join(
        [
            f"ip link set {dev}",
            *(_said(word, value) for word, value in wanted.items()),
            *(["nomaster"] if nomaster else []),
            *([] if name is None else [f"name {name}"]),
        ]
    )

    def find(each: str) -> int:
        return find_index(running.space, each, words)

    index = find(dev)
    body = _body(name, find, wanted, index)
    if nomaster:
        body += rtnetlink.attribute(rtnetlink.IFLA_MASTER, 0)
    changing = carry_out(running.space, [Request(words, rtnetlink.set_link(body))])
    if name is None:
        await changing
    else:
        await _to_the_end(_rename(running, dev, name, changing))


async def _rename(
    running: Running, old: str, new: str, changing: Coroutine[Any, Any, None]
) -> None:
    await changing
    running.renamed(old, new)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await something short that must not be cut in two, also if we are cancelled."""
    task = asyncio.get_running_loop().create_task(work, name="aioioth: rename a link")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _body(
    name: str | None,
    find: Find,
    said: Mapping[str, Any],
    index: int = 0,
) -> bytes:
    """Return what says how a link shall be; `said` is ``common`` of `add`."""
    wanted = {word: said[word] for word in said.keys() & {"mtu", "up"}}
    if "mtu" in wanted:
        number("mtu", wanted["mtu"], 0, LARGEST_MTU)
    attributes = []
    if "link" in said:
        attributes.append(rtnetlink.attribute(rtnetlink.IFLA_LINK, find(said["link"])))
    if "mac" in said:
        wanted["mac"] = parse_mac(said["mac"])
    if "master" in said:
        wanted["master"] = find(said["master"])
    return rtnetlink.link_body(*attributes, name=name, index=index, **wanted)


# What the kinds can have that are written without pyroute2


def _plain(kind: str) -> Callable[[Find], bytes]:
    return lambda _: linkkinds.plain(kind)


def _veth(_: Find, *, peer: str) -> bytes:
    link_name(peer)
    return linkkinds.veth(peer)


def _vlan(_: Find, *, id: int) -> bytes:  # noqa: A002  (iproute2's word)
    return linkkinds.vlan(number("id", id, 0, 4094))


def _macvlan(_: Find, *, mode: str = "vepa") -> bytes:
    if mode not in list(linkkinds.MACVLAN_MODES):
        msg = f"mode={mode!r}: must be one of {', '.join(linkkinds.MACVLAN_MODES)}"
        raise ConfigurationError(msg)
    return linkkinds.macvlan(mode)


def _vxlan(
    find: Find,
    *,
    id: int,  # noqa: A002  (iproute2's word)
    remote: str | None = None,
    group: str | None = None,
    local: str | None = None,
    dev: str | None = None,
    port: int = 4789,
) -> bytes:
    there = group if remote is None else remote
    return linkkinds.vxlan(
        number("id", id, 0, 0xFFFFFF),
        there=None if there is None else parse_address("remote", there),
        here=None if local is None else parse_address("local", local),
        link=None if dev is None else find(dev),
        port=number("port", port, 1, 65535),
    )


_OWN: Mapping[str, Callable[..., bytes]] = {
    "bridge": _plain("bridge"),
    "dummy": _plain("dummy"),
    "veth": _veth,
    "vlan": _vlan,
    "macvlan": _macvlan,
    "vxlan": _vxlan,
}


def _described(kind: str, details: Mapping[str, Any], find: Find) -> bytes:
    describe = _OWN[kind]
    try:
        inspect.signature(describe).bind(find, **details)
    except TypeError as error:
        msg = f"a link of the kind {kind!r}: {error}; stack.netlink.link() takes all"
        raise ConfigurationError(msg) from None
    return describe(find, **details)


async def _add_by_pyroute2(  # noqa: PLR0917
    running: Running,
    words: str,
    name: str,
    kind: str,
    said: Mapping[str, Any],
    details: Mapping[str, Any],
    find: Find,
) -> None:
    options = dict(details)
    for word in said.keys() & {"link", "master"}:
        options[word] = find(said[word])
    if "mac" in said:
        options["address"] = parse_mac(said["mac"])
    if "mtu" in said:
        options["mtu"] = number("mtu", said["mtu"], 0, LARGEST_MTU)
    if said.get("up"):
        options["state"] = "up"
    netlink = running.netlink
    with netlink.translated(words):
        try:
            await netlink.link("add", ifname=name, kind=kind, **options)
        except NOT_UNDERSTOOD as error:
            msg = f"{words}: pyroute2 wants other options: {error!r}"
            raise ConfigurationError(msg) from error


def _said(word: str, value: object) -> str:
    if word == "up":
        return "up" if value else "down"
    return f"{'address' if word == 'mac' else word} {value}"
