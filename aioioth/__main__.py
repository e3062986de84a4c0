"""``python -m aioioth``: try what a stack needs here, and say how it went."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING

from aioioth import Stack
from aioioth._plugins import FALLBACK, TRANSPORTS
from aioioth._speedups import are_there
from aioioth.errors import AioiothError

if TYPE_CHECKING:
    from collections.abc import Callable

_TRIED: dict[str, Callable[[], Stack]] = {
    "a stack of its own": Stack,
    "an interface as TAP": lambda: Stack("null://", device="tap"),
    "an interface as packet socket": lambda: Stack("null://", device="packet"),
    "an interface on a bridge": lambda: Stack("bridge://[private]"),
}


async def _try_everything() -> dict[str, str | None]:
    """Open one stack of each sort; None for those that work, otherwise why not."""
    outcome: dict[str, str | None] = {}
    for what, make in _TRIED.items():
        try:
            async with make():
                outcome[what] = None
        except (AioiothError, OSError) as error:
            outcome[what] = str(error)
    return outcome


def main() -> None:
    """Print the report; exit status 1 if stacks with interfaces do not work here."""
    parser = argparse.ArgumentParser(
        prog="python -m aioioth",
        description="Try what aioioth needs on this machine, and say how it went.",
    )
    parser.parse_args()
    schemes = ", ".join(sorted(entry_points(group=TRANSPORTS).names - {FALLBACK}))
    print(f"aioioth {version('aioioth')}, Python {platform.python_version()}, ", end="")
    print(f"Linux {platform.release()}, user id {os.geteuid()}")
    print(f"VNL schemes: {schemes}")
    outcome = asyncio.run(_try_everything())
    for what, reason in outcome.items():
        print(f"{what + ':':31} {'works' if reason is None else reason}")
    compiled = "in use" if are_there() else "not in use (optional: aioioth-speedups)"
    print(f"{'the compiled step:':31} {compiled}")
    alone, *interfaces = outcome.values()
    if alone is None and None in interfaces:
        print("aioioth works here.")
    else:
        print("aioioth does not work here.")
        sys.exit(1)


if __name__ == "__main__":
    main()
