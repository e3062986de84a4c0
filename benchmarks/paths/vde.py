"""The peers of VDE: vdens and libvdestack, on a vde_switch or another VDE network."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from benchmarks.paths.byhand import two_ends
from benchmarks.paths.path import Path
from benchmarks.running import vde_switch, why_no_tap, why_without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.paths.path import Ends
    from benchmarks.running import Tools, Workplace

__all__ = ["Libvdestack", "Network", "Vdens", "open_network"]

SERVER, CLIENT = "10.0.0.1", "10.0.0.2"


@dataclass(frozen=True)
class Network:
    """A VDE network between two ends; ``DIR`` is an empty directory.

    Attributes:
        server: The VNL of the end that is opened first.
        client: That of the other.
    """

    server: str
    client: str

    @property
    def switch(self) -> bool:
        """Whether it needs a vde_switch, in ``DIR/switch``."""
        return "DIR/switch" in self.server


@contextlib.asynccontextmanager
async def open_network(
    place: Workplace, network: Network
) -> AsyncIterator[tuple[str, str]]:
    """Run the switch, if there is one, and yield the two VNLs."""
    server, client = (
        vnl.replace("DIR", str(place.directory))
        for vnl in (network.server, network.client)
    )
    async with vde_switch(place) if network.switch else contextlib.nullcontext():
        yield server, client


@dataclass(frozen=True)
class Vdens(Path):
    """Each end in a vdens: Debian's own namespace on a VDE network."""

    key: str
    title: str
    network: Network

    @override
    def why_not(self, tools: Tools) -> str:
        return (
            why_without("vdens", "vdens")
            or why_without("ip", "iproute2")
            or (self.network.switch and why_without("vde_switch", "vde-switch"))
            or why_no_tap()
        )

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        async with open_network(place, self.network) as vnls:
            one, two = (
                [*_vdens(vnl, ip), *place.tools.load]
                for vnl, ip in zip(vnls, (SERVER, CLIENT), strict=True)
            )
            yield two_ends(place, one, two, SERVER)


def _vdens(vnl: str, ip: str) -> list[str]:
    script = f"""
        ip address add {ip}/24 dev vde0
        ip link set vde0 up
        exec "$@"
    """
    return ["vdens", vnl, "sh", "-ec", script, "sh"]


class Libvdestack(Path):
    """Each end a C program with a stack of libvdestack, both on one vde_switch."""

    key, title = "libvdestack", "libvdestack on vde_switch"

    @override
    def why_not(self, tools: Tools) -> str:
        return (
            why_without("vde_switch", "vde-switch")
            or why_no_tap()
            or tools.why_no_vdestack
        )

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        async with vde_switch(place) as (vnl, _):
            one, two = (
                [place.tools.vdestack, vnl, f"{ip}/24"] for ip in (SERVER, CLIENT)
            )
            yield two_ends(place, one, two, SERVER)
