"""Rootless networking of containers: slirp4netns and pasta, from inside to the host."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from typing_extensions import override

from benchmarks.paths.byhand import (
    PORT,
    enter,
    namespaces,
    two_ends,
    unshare,
    why_no_namespaces,
)
from benchmarks.paths.path import Path
from benchmarks.running import running, why_no_tap, why_without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.paths.path import Ends
    from benchmarks.running import Tools, Workplace

__all__ = ["Pasta", "Slirp4netns"]


class Slirp4netns(Path):
    """The client in a namespace behind slirp4netns, the server on the host's ``lo``."""

    key, title = "slirp4netns", "slirp4netns"

    @override
    def why_not(self, tools: Tools) -> str:
        return (
            why_without("slirp4netns", "slirp4netns")
            or why_no_namespaces()
            or why_no_tap()
        )

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        script = """
            ip link set lo up
            echo here
            until ip -4 address show tap0 2>/dev/null | grep -q inet; do
                sleep 0.02
            done
            echo ready
            read -r _ || true
        """
        async with running(place, [*unshare(), "sh", "-ec", script]) as shell:
            await shell.line()
            # It ends with its standard input, as everything here.
            slirp = [
                *("slirp4netns", "--configure", "--mtu=1500", "--exit-fd=0"),
                *(str(shell.pid), "tap0"),
            ]
            async with running(place, slirp):
                await shell.line()
                yield two_ends(
                    place,
                    place.tools.load,
                    [*enter(shell.pid), *place.tools.load],
                    "10.0.2.2",  # the host, libslirp's convention
                )


class Pasta(Path):
    """The client in pasta's namespace, spliced to the server on the host's ``lo``.

    Its other way, through a TAP, needs a host with a network; this one is the quicker.
    """

    key, title = "pasta", "pasta, spliced"

    @override
    def why_not(self, tools: Tools) -> str:
        return why_without("pasta", "passt") or why_no_namespaces() or why_no_tap()

    @override
    @contextlib.asynccontextmanager
    async def open(self, place: Workplace) -> AsyncIterator[Ends]:
        # pasta does not start on a host without a default route.
        script = """
            ip link add nowhere0 type veth peer name nowhere1
            ip address add 192.0.2.2/24 dev nowhere0
            ip link set nowhere0 up
            ip link set nowhere1 up
            ip route add default via 192.0.2.1
        """
        forwarded = ["-t", "none", "-u", "none", "-U", PORT]
        forwarded += ["-T", f"{PORT}-{int(PORT) + 1}"]
        async with namespaces(place, script) as there:
            pasta = [*there, "pasta", "--config-net", "--ipv4-only", "--quiet"]
            if os.geteuid() == 0:
                pasta += ["--runas", "0"]
            yield two_ends(
                place,
                [*there, *place.tools.load],
                [*pasta, *forwarded, "--", *place.tools.load],
                "127.0.0.1",
            )
