"""What each transport carries between two aioioth stacks, beside Debian's own.

    python benchmarks/transports.py [--only SCHEME] [--seconds 0.8] [--rounds 3]

For each scheme, the same two programs (load.py) talk: over TCP as much as goes, back
and forth with 64 bytes, and in datagrams of 64 bytes. The contenders take turns, in the
same run, so that a busy machine is busy for all:

* Debian: each program in a vdens, which has the same VNL.
* asyncio, uvloop: each in a stack of a process of its own, as two vdens are.
* one process: both stacks on one loop, uvloop's if there is one.

A ratio is the median over the rounds of a contender's result to Debian's in the same
round; above 1 is in our favour, for the round trip too. Frames that were lost are
listed by cause.

All of it happens in an empty network namespace made for the run, where multicasts stay
too. Where /dev/net/tun does not open, there is no Debian to compare with: vdens needs
it. Takes two minutes and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from aioioth import Stack

_HERE = Path(__file__).resolve().parent
_ISOLATE = _HERE.parent / "tests" / "isolate.py"
_LOAD = [sys.executable, "-IS", str(_HERE / "load.py")]

_SERVER, _CLIENT = "10.0.0.1", "10.0.0.2"

# To start a few interpreters, and for the last bytes to arrive, on a busy machine.
_SPARE_SECONDS = 20.0


class FailedError(Exception):
    """An end did not do what it should; its own words are on standard error."""


@dataclass(frozen=True)
class Scheme:
    """A network between two ends; ``DIR`` is an empty directory.

    Attributes:
        name: As in ``--only``.
        server: The VNL of the end that is opened first.
        client: That of the other.
        switch: Whether there is a vde_switch in ``DIR/switch``.
        within: Whether it is only for the stacks of one process.
    """

    name: str
    server: str
    client: str
    switch: bool = False
    within: bool = False


SCHEMES = (
    Scheme("switch", "switch://DIR/node", "vde://DIR/node"),
    Scheme("vde", "vde://DIR/switch", "vde://DIR/switch", switch=True),
    Scheme("vxvde", "vxvde://234.0.0.1/if=lo", "vxvde://234.0.0.1/if=lo"),
    Scheme(
        "udp",
        "udp://127.0.0.1:6001->127.0.0.1:6002",
        "udp://127.0.0.1:6002->127.0.0.1:6001",
    ),
    Scheme("ptp", "ptp://DIR/ptp", "ptp://DIR/ptp"),
    Scheme("memory", "memory://bench", "memory://bench", within=True),
)


@dataclass(frozen=True)
class Contender:
    """Who is measured: Debian without ``loop``, aioioth on it otherwise."""

    title: str
    loop: str = ""
    together: bool = False


DEBIAN = Contender("Debian (vdens)")


@dataclass
class Results:
    """What one contender came to with one scheme, one value for each round."""

    gbit: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    failure: str = ""


# The ends of aioioth: a process with a stack or two, and a program in each.


async def _ends(seconds: str, *ends: str) -> None:
    """Run the server, the client or both: each a VNL, an address and a task."""
    from aioioth import Stack  # the driver does without

    async with AsyncExitStack() as until_end:
        stacks: list[Stack] = []
        processes: list[Process] = []
        for vnl, ip, task in zip(ends[::3], ends[1::3], ends[2::3], strict=True):
            stack = await until_end.enter_async_context(Stack(vnl, ip=f"{ip}/24"))
            stacks.append(stack)
            more = (seconds,) if task == "ask" else ()
            process = await stack.create_subprocess_exec(
                *_LOAD, task, _SERVER, *more, stdout=subprocess.PIPE
            )
            processes.append(process)
            assert process.stdout is not None
            line = await process.stdout.readline()
            print(line.decode().rstrip(), flush=True)
        for process in processes:
            if await process.wait():
                sys.exit(1)
        losses: Counter[str] = Counter()
        for stack in stacks:
            losses += _losses(stack)
        print(json.dumps(losses), flush=True)


def _losses(stack: Stack) -> Counter[str]:
    stats = stack.stats()["vde0"]
    losses: Counter[str] = Counter()
    for way, counters in ("sent", stats.sent), ("received", stats.received):
        for cause, count in counters.drops.items():
            losses[f"{way}: {cause}"] += count
    return losses


def main_of_ends() -> None:
    """Run `_ends` on the loop that is named, with what stands on the command line."""
    _, _, loop, *arguments = sys.argv
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop != "asyncio":
        factory = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_ends(*arguments))


# The driver.


@contextlib.asynccontextmanager
async def _running(command: Sequence[str]) -> AsyncIterator[Process]:
    # In a group of its own, with whatever it starts: vdens does not end what runs in
    # it, and nothing is left if anybody hangs.
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _said(process: Process) -> Any:  # noqa: ANN401  (what JSON can be)
    """Return what the next line holds, "ready" as it is."""
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().strip()
    if not line:
        msg = "an end has ended too early"
        raise FailedError(msg)
    return line if line == "ready" else json.loads(line)


def _vdens(vnl: str, ip: str, *task: str) -> list[str]:
    script = f"""
        ip address add {ip}/24 dev vde0
        ip link set vde0 up
        exec "$@"
    """
    return ["vdens", vnl, "sh", "-ec", script, "sh", *_LOAD, *task]


def _ours(loop: str, seconds: float, *ends: str) -> list[str]:
    return [sys.executable, __file__, "ends", loop, str(seconds), *ends]


async def _measure(
    scheme: Scheme, contender: Contender, seconds: float, directory: Path
) -> tuple[dict[str, float], Counter[str]]:
    """Return what one conversation came to, and what was lost, by cause."""
    server, client = (
        vnl.replace("DIR", str(directory)) for vnl in (scheme.server, scheme.client)
    )
    serve, ask = (server, _SERVER, "serve"), (client, _CLIENT, "ask")
    losses: Counter[str] = Counter()
    async with asyncio.timeout(3 * seconds + _SPARE_SECONDS):
        if contender.together:
            command = _ours(contender.loop, seconds, *serve, *ask)
            async with _running(command) as both:
                await _said(both)
                result = await _said(both)
                losses += Counter(await _said(both))
            return result, losses
        if contender.loop:
            first = _ours(contender.loop, seconds, *serve)
            second = _ours(contender.loop, seconds, *ask)
        else:
            first = _vdens(*serve, _SERVER)
            second = _vdens(*ask, _SERVER, str(seconds))
        async with _running(first) as serving:
            await _said(serving)
            async with _running(second) as asking:
                result = await _said(asking)
                if contender.loop:
                    losses += Counter(await _said(asking))
                    losses += Counter(await _said(serving))
    return result, losses


async def _round(
    scheme: Scheme,
    contender: Contender,
    seconds: float,
    directory: Path,
    results: Results,
) -> None:
    try:
        result, losses = await _measure(scheme, contender, seconds, directory)
    except TimeoutError:
        results.failure = "it does not end"
    except FailedError as error:
        results.failure = str(error)
    else:
        for name in "gbit", "p50", "p99", "frames":
            getattr(results, name).append(result[name])
        results.losses += losses
        results.losses["TCP segments sent again"] += int(result["retransmitted"])
        results.losses["datagrams lost"] += int(result["datagrams lost"])


async def _compare(
    scheme: Scheme, contenders: list[Contender], arguments: argparse.Namespace
) -> None:
    found = {each: Results() for each in contenders}
    for number in range(arguments.rounds):
        # Whoever comes first finds a cold machine, so they take turns there.
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            results = found[contender]
            if results.failure:
                continue
            with tempfile.TemporaryDirectory(prefix="aioioth-") as name:
                directory = Path(name)
                switch = scheme.switch and _vde_switch(directory)
                with switch or contextlib.nullcontext():
                    await _round(
                        scheme, contender, arguments.seconds, directory, results
                    )
    _print(scheme, found)


# The table.


_WIDTHS = (22, 20, 20, 9, 21)
_TITLES = ("", "TCP, Gbit/s", "round trip, us", "p99, us", "frames/s")


def _row(*cells: str) -> str:
    first, *others = zip(cells, _WIDTHS, strict=True)
    return f"{first[0]:{first[1]}}" + "".join(f"{c:>{w}}" for c, w in others)


def _print(scheme: Scheme, found: dict[Contender, Results]) -> None:
    print("\n" + _row(f"{scheme.name}://", *_TITLES[1:]))
    peer = found.get(DEBIAN, Results())
    for contender, ours in found.items():
        if ours.failure:
            print(f"  {contender.title:20}failed: {ours.failure}")
            continue
        print(
            _row(
                f"  {contender.title}",
                _cell(ours.gbit, _ratio(ours.gbit, peer.gbit), 2),
                _cell(ours.p50, _ratio(peer.p50, ours.p50), 0),
                f"{statistics.median(ours.p99):.0f}",
                _cell(ours.frames, _ratio(ours.frames, peer.frames), 0),
            )
        )
    for contender, ours in found.items():
        words = [f"{count} {cause}" for cause, count in ours.losses.items() if count]
        if words:
            print(f"  {contender.title:20}lost: {', '.join(words)}")
    sys.stdout.flush()


def _ratio(upper: list[float], lower: list[float]) -> str:
    if len(upper) != len(lower):
        return ""
    ratio = statistics.median(a / b for a, b in zip(upper, lower, strict=True))
    return f"({ratio:.2f})"


def _cell(values: list[float], ratio: str, digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} {ratio:>6}"


# What is there.


@contextlib.contextmanager
def _vde_switch(directory: Path) -> Iterator[None]:
    path, pid_file = directory / "switch", directory / "pid"
    command = ["vde_switch", "-d", "-s", str(path), "-p", str(pid_file)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    end = time.monotonic() + _SPARE_SECONDS
    while not (pid_file.exists() and pid_file.read_text().strip()):
        if time.monotonic() > end:
            sys.exit("vde_switch did not start")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)


def _why_without_debian() -> str:
    """Return why there is nobody to compare with, if so."""
    if shutil.which("vdens") is None or shutil.which("ip") is None:
        return "vdens or ip is missing (apt-get install vdens iproute2)"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"vdens needs /dev/net/tun ({error.strerror})"
    return ""


def _contenders() -> list[Contender]:
    ours = [Contender("asyncio", "asyncio")]
    if importlib.util.find_spec("uvloop") is None:
        print("uvloop is missing (pip install uvloop): left out")
    else:
        ours.append(Contender("uvloop", "uvloop"))
    together = Contender("one process", ours[-1].loop, together=True)
    if why := _why_without_debian():
        print(f"Nothing to compare with: {why}.")
        return [*ours, together]
    return [DEBIAN, *ours, together]


def _schemes(only: str | None) -> list[Scheme]:
    found = [each for each in SCHEMES if only in {None, each.name}]
    if shutil.which("vde_switch") is None:
        print("vde_switch is missing (apt-get install vde-switch): left out")
        found = [each for each in found if not each.switch]
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [each.name for each in SCHEMES]
    parser.add_argument("--only", choices=names, help="one scheme")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.8,
        help="of TCP in each conversation, which takes 1.8 times as long; default: 0.8",
    )
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    contenders = _contenders()
    print(
        f"{arguments.rounds} rounds of {arguments.seconds:g} s, MTU 1500; medians, and "
        f"in parentheses the ratio to Debian's: above 1, ours is better."
    )
    for scheme in _schemes(arguments.only):
        fitting = [each for each in contenders if each.together or not scheme.within]
        await _compare(scheme, fitting, arguments)


def main() -> None:
    """Compare, in a network namespace of our own."""
    arguments = _arguments()
    if not arguments.isolated:
        again = [sys.executable, str(_ISOLATE), sys.executable, __file__]
        os.execv(sys.executable, [*again, *sys.argv[1:], "--isolated"])
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    asyncio.run(_run(arguments))


if __name__ == "__main__":
    if sys.argv[1:2] == ["ends"]:
        main_of_ends()
    else:
        main()
