"""Guided by coverage: what no parser of the network's messages may do.

    pip install atheris; python tests/fuzz/guided.py dhcp4 -max_total_time=60

Run by hand, since it takes its time; the tests beside it are run with the suite.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports():
    from aioioth._autoconf.dhcp4_lease import Lease as Lease4
    from aioioth.wire import arp, dhcp4, dhcp6, domains, nd, udpip

if TYPE_CHECKING:
    from collections.abc import Callable


def _dhcp4(data: bytes) -> None:
    message = dhcp4.Message.parse(data)
    message.pack()
    Lease4.read(message, 0.0)


def _dhcp6(data: bytes) -> None:
    dhcp6.Message.parse(data).pack()


def _ra(data: bytes) -> None:
    nd.parse_advertisement(data)


def _rs(data: bytes) -> None:
    nd.parse_solicitation(data)


def _names(data: bytes) -> None:
    domains.parse_names(data, compressed=bool(data and data[0] & 1))


def _udp(data: bytes) -> None:
    udpip.UdpDatagram.parse(data, checked=True)


def _arp(data: bytes) -> None:
    arp.ArpPacket.parse(data)


PARSERS: dict[str, Callable[[bytes], None]] = {
    "dhcp4": _dhcp4,
    "dhcp6": _dhcp6,
    "ra": _ra,
    "rs": _rs,
    "names": _names,
    "udp": _udp,
    "arp": _arp,
}


def main() -> None:
    """Run until something else than ValueError comes out, or time is over."""
    parse = PARSERS[sys.argv.pop(1)]

    def attempt(data: bytes) -> None:
        try:
            parse(data)
        except ValueError:
            return

    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
