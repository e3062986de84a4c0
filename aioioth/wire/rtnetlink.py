"""Requests to the kernel about links, and how it answers whatever it is asked.

What is asked for often or early is written here: pyroute2, which does all the rest,
takes 120 ms to import and 0.4 ms for a request; these take microseconds.

Source: netlink(7), rtnetlink(7); <linux/netlink.h>, <linux/rtnetlink.h>,
<linux/if_link.h>, <linux/if_bridge.h>, <linux/veth.h>, Linux 6.1.
"""

from __future__ import annotations

import errno
import struct
from itertools import islice
from typing import TYPE_CHECKING

from aioioth.wire.ethernet import packed_mac

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "AF_BRIDGE",
    "AF_INET",
    "AF_INET6",
    "IFF_LOWER_UP",
    "IFF_UP",
    "IFLA_ADDRESS",
    "IFLA_AF_SPEC",
    "IFLA_IFALIAS",
    "IFLA_IFNAME",
    "IFLA_INFO_DATA",
    "IFLA_INFO_KIND",
    "IFLA_LINK",
    "IFLA_LINKINFO",
    "IFLA_MASTER",
    "IFLA_MTU",
    "IFLA_NET_NS_FD",
    "IFLA_NUM_RX_QUEUES",
    "IFLA_NUM_TX_QUEUES",
    "NLA_F_NESTED",
    "NLA_TYPE_MASK",
    "NLMSG_DONE",
    "NLMSG_ERROR",
    "NLM_F_ACK",
    "NLM_F_ACK_TLVS",
    "NLM_F_APPEND",
    "NLM_F_CAPPED",
    "NLM_F_CREATE",
    "NLM_F_DUMP",
    "NLM_F_DUMP_INTR",
    "NLM_F_EXCL",
    "NLM_F_REPLACE",
    "NLM_F_REQUEST",
    "RTM_DELADDR",
    "RTM_DELLINK",
    "RTM_DELNEIGH",
    "RTM_DELROUTE",
    "RTM_DELRULE",
    "RTM_GETADDR",
    "RTM_GETLINK",
    "RTM_GETNEIGH",
    "RTM_GETROUTE",
    "RTM_GETRULE",
    "RTM_NEWADDR",
    "RTM_NEWLINK",
    "RTM_NEWNEIGH",
    "RTM_NEWROUTE",
    "RTM_NEWRULE",
    "RTM_SETLINK",
    "VETH_INFO_PEER",
    "announcements",
    "attribute",
    "attributes",
    "del_link",
    "descriptor_place",
    "get_link",
    "link_body",
    "link_info",
    "messages",
    "nest",
    "new_link",
    "request",
    "set_link",
    "veth",
    "was_interrupted",
]

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100  # of an answer: what was asked is not repeated in full
NLM_F_ACK_TLVS = 0x200  # of an answer: the kernel says more
NLM_F_DUMP_INTR = 0x10  # of a dump: something changed meanwhile
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
_NLMSGERR_ATTR_MSG = 1
_IFLA_EXT_MASK = 29
_RTEXT_FILTER_SKIP_STATS = 1 << 3

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
RTM_NEWRULE = 32
RTM_DELRULE = 33
RTM_GETRULE = 34

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_AF_SPEC = 26
IFLA_NET_NS_FD = 28
IFLA_NUM_TX_QUEUES = 31
IFLA_NUM_RX_QUEUES = 32
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
VETH_INFO_PEER = 1

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_LINK = struct.Struct("=BxHiII")

# In place of a descriptor that somebody else will send the request with; see
# `descriptor_place`.
_PLACE = 0x7FFF0000


def request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return a message that asks something."""
    return (
        _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body
    )


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """Return an attribute; numbers have 32 bits, texts end with a NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size & 3)


def nest(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that consists of others."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def descriptor_place(number: int) -> int:
    """Return what stands for the descriptor that is sent along as ``number``."""
    return _PLACE | number


def link_body(  # noqa: PLR0913  (one keyword for each thing a link can have)
    *attributes: bytes,
    family: int = 0,
    index: int = 0,
    up: bool | None = None,
    name: str | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    master: int | None = None,
    namespace: int | None = None,
) -> bytes:
    """Return what says how a link is, or shall be.

    Args:
        *attributes: What the keywords do not have.
        family: AF_BRIDGE for what a bridge knows of its port.
        index: The kernel's number for it; 0 to go by the name.
        up: None to leave it as it is.
        name: What it is called.
        mtu: In bytes, headers not counted.
        mac: As ``02:00:00:00:00:01``.
        master: Number of the bridge that it is a port of; 0 for none.
        namespace: Descriptor of the network namespace that it is to be in.
    """
    flags, change = (IFF_UP if up else 0), (0 if up is None else IFF_UP)
    parts = [_LINK.pack(family, 0, index, flags, change)]
    if name is not None:
        parts.append(attribute(IFLA_IFNAME, name))
    if mtu is not None:
        parts.append(attribute(IFLA_MTU, mtu))
    if mac is not None:
        parts.append(attribute(IFLA_ADDRESS, packed_mac(mac)))
    if master is not None:
        parts.append(attribute(IFLA_MASTER, master))
    if namespace is not None:
        parts.append(attribute(IFLA_NET_NS_FD, namespace))
    return b"".join((*parts, *attributes))


def link_info(kind: str, *data: bytes) -> bytes:
    """Return the attribute for what kind a new link is, and what that kind needs."""
    parts = [attribute(IFLA_INFO_KIND, kind)]
    if data:
        parts.append(nest(IFLA_INFO_DATA, *data))
    return nest(IFLA_LINKINFO, *parts)


def new_link(body: bytes) -> bytes:
    """Return ``ip link add``; see `link_body` and `link_info`."""
    return request(RTM_NEWLINK, body, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)


def set_link(body: bytes) -> bytes:
    """Return ``ip link set``; see `link_body`."""
    return request(RTM_NEWLINK, body, NLM_F_ACK)


def get_link(body: bytes, flags: int = 0) -> bytes:
    """Return ``ip link show``, without the counters that it has with ``-s``."""
    mask = attribute(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return request(RTM_GETLINK, body + mask, flags)


def del_link(body: bytes) -> bytes:
    """Return ``ip link del``; see `link_body`."""
    return request(RTM_DELLINK, body, NLM_F_ACK)


def veth(body: bytes, peer: bytes) -> bytes:
    """Return ``ip link add type veth``, both ends as `link_body` describes them."""
    # Room for one queue for each processor costs a fifth of the time, and is not used.
    queue = attribute(IFLA_NUM_TX_QUEUES, 1) + attribute(IFLA_NUM_RX_QUEUES, 1)
    data = attribute(VETH_INFO_PEER | NLA_F_NESTED, peer + queue)
    return new_link(body + queue + link_info("veth", data))


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return type and body of each message in what was received at once.

    Raises:
        OSError: The kernel refused, a request or the rest of a dump; with its own
            words, if it was asked to say any (NETLINK_EXT_ACK) and did.
    """
    for kind, flags, body in announcements(data):
        if kind in {NLMSG_ERROR, NLMSG_DONE}:
            # At the end of a dump there may be none, or one that is positive.
            code = -_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
            if code > 0:
                name = errno.errorcode.get(code, str(code))
                raise OSError(code, _explanation(kind, body, flags) or name)
        yield kind, body


def announcements(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Return type, flags and body of each message in what was received at once."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, *_ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + _HEADER.size : at + size]
        at += _aligned(max(size, _HEADER.size))


def was_interrupted(data: bytes) -> bool:
    """Return whether a part of a dump is of another time than the one before."""
    # Time is told when a part is begun: if one message is marked, the first is.
    return any(
        flags & NLM_F_DUMP_INTR for _, flags, _ in islice(announcements(data), 1)
    )


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes that follow the fixed part of a body."""
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & NLA_TYPE_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, _aligned(size))
    return found


def _explanation(kind: int, body: bytes, flags: int) -> str:
    """Return the kernel's words in an error; none if it said nothing."""
    repeated = 0
    if kind == NLMSG_ERROR:
        if not flags & NLM_F_ACK_TLVS or len(body) < _ERROR.size + _HEADER.size:
            return ""
        asked = _HEADER.unpack_from(body, _ERROR.size)[0]
        repeated = _HEADER.size if flags & NLM_F_CAPPED else _aligned(asked)
    told = attributes(body[_ERROR.size + repeated :])
    return told.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")


def _aligned(size: int) -> int:
    return (size + 3) & ~3
