"""Where the time of a pump goes: perf and cProfile around a program with stacks."""

from __future__ import annotations

import contextlib
import cProfile
import io
import os
import pstats
import resource
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioioth import Stack

__all__ = ["profiled"]


@contextlib.contextmanager
def profiled(profiler: str, stacks: Sequence[Stack]) -> Iterator[None]:
    """Write to standard error where the time went; nothing without a profiler."""
    if not profiler:
        yield
        return
    before = resource.getrusage(resource.RUSAGE_SELF)
    with _perf() if profiler == "perf" else _cprofile():
        yield
        after = resource.getrusage(resource.RUSAGE_SELF)
    for stack in stacks:
        for traffic in stack.stats().values():
            _say(f"sent: {traffic.sent}\nreceived: {traffic.received}")
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    _say(f"{user:.2f} s user, {system:.2f} s system")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _cprofile() -> Iterator[None]:
    profile = cProfile.Profile()
    with profile:
        yield
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(9)
    _, table, lines = text.getvalue().partition("   ncalls")
    _say(table + lines.rstrip())


@contextlib.contextmanager
def _perf() -> Iterator[None]:
    with tempfile.NamedTemporaryFile(prefix="perf-") as data:
        record = ["perf", "record", "--quiet", "--freq=1999", "--no-inherit"]
        process = subprocess.Popen(
            [*record, f"--output={data.name}", f"--pid={os.getpid()}"]
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
        report = ["perf", "report", "--stdio", "--quiet", f"--input={data.name}"]
        for keys, limit in (("dso", 2), ("symbol", 0.9)):
            limited = f"--percent-limit={limit}"
            # What perf has to say on standard error is not about us.
            text = subprocess.run(
                [*report, f"--sort={keys}", limited],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ).stdout
            _say("\n".join(line.rstrip() for line in text.splitlines() if line.strip()))
