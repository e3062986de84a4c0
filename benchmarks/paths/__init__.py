"""What is measured: one `Path` for each kind of network between two ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.paths.byhand import Loopback, veth, veth_and_bridge
from benchmarks.paths.stacks import BRIDGE, Stacks
from benchmarks.paths.usermode import Pasta, Slirp4netns
from benchmarks.paths.vde import Libvdestack, Network, Vdens

if TYPE_CHECKING:
    from benchmarks.paths.path import Path

__all__ = ["MAIN", "PATHS", "TRANSPORTS"]

_SWITCH = Network("vde://DIR/switch", "vde://DIR/switch")
_BRIDGE = Network(BRIDGE, BRIDGE)
_MEMORY = Network("memory://bench", "memory://bench")


def _others(number: int) -> dict[str, Network]:
    """Return the other transports; networks of another number do not meet these."""
    group, one, two = f"234.0.0.{number}", 6000 + number, 6100 + number
    return {
        "vxvde": Network(f"vxvde://{group}/if=lo", f"vxvde://{group}/if=lo"),
        "udp": Network(
            f"udp://127.0.0.1:{one}->127.0.0.1:{two}",
            f"udp://127.0.0.1:{two}->127.0.0.1:{one}",
        ),
        "ptp": Network("ptp://DIR/ptp", "ptp://DIR/ptp"),
        "switch": Network("switch://DIR/node", "vde://DIR/node"),
    }


_main: list[Path] = [
    Loopback(),
    veth,
    veth_and_bridge,
    Stacks("bridge", "bridge://", _BRIDGE, together=True, pumps=False),
    Stacks("memory", "memory://", _MEMORY, together=True),
    Stacks("vde-pure", "vde://, pure Python", _SWITCH),
    Stacks("vde-compiled", "vde://, compiled step", _SWITCH, compiled=True),
    Libvdestack(),
    Vdens("vdens", "vdens on vde_switch", _SWITCH),
    Slirp4netns(),
    Pasta(),
]

_transports: list[Path] = []
for (_name, _ours), _theirs in zip(
    _others(1).items(), _others(2).values(), strict=True
):
    _transports += [
        Stacks(_name, f"{_name}://", _ours),
        Vdens(f"vdens-{_name}", f"vdens on {_name}://", _theirs),
    ]

# Keys of those of the report, and of the other transports beside Debian's own.
MAIN = tuple(path.key for path in _main)
TRANSPORTS = tuple(path.key for path in _transports)

PATHS: dict[str, Path] = {path.key: path for path in [*_main, *_transports]}
