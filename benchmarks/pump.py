"""TCP through a real vde_switch: two aioioth stacks beside two libvdestack programs.

    python benchmarks/pump.py

Every end is a process with a stack of its own, and both ends are on one vde_switch. The
contenders take turns, in the same run, so that a busy machine is busy for all:

* libvdestack: a program in C; the library's helper process is its pump.
* aioioth, C application: the event loop does nothing but pump. The application is the
  same program in C, in a process of its own, with a socket that it inherits. This
  compares the pumps.
* aioioth, streams: the application is Python too, asyncio streams on the pump's loop.
  This is what a program gets that does all in one loop.

A contender's ratio is the median over the rounds of its result divided by that of
libvdestack in the same round. More is better for TCP, less for the round trip.

All of it happens in an empty network namespace made for the run. Needs vde_switch, gcc,
libvdestack and, because libvdestack does, /dev/net/tun. Takes a minute and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import importlib
import importlib.util
import io
import os
import pstats
import resource
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Iterator

    from aioioth import Stack

_HERE = Path(__file__).resolve().parent
_ISOLATE = _HERE.parent / "tests" / "isolate.py"
_SOURCE = _HERE / "vdestack_tcp.c"

_GOAL = 0.75
_PORT = 5000
_SERVER, _CLIENT = "10.0.0.1", "10.0.0.2"

# As in vdestack_tcp.c, which also describes the conversation.
_CHUNK = bytes(128 * 1024)
_PING_SECONDS = 0.4
_ANSWER = struct.Struct(">QQ")

# To start two interpreters, and for the last bytes to arrive, on a busy machine.
_SPARE_SECONDS = 20.0

# What can be missing: how it shows, and who has it.
_PROGRAMS = {
    "vde_switch": "apt-get install vde-switch",
    "gcc": "apt-get install gcc libc6-dev",
}
_LIBRARY = "apt-get install libvdestack-dev libvdeplug-dev"


class FailedError(Exception):
    """An end did not do what it should; its own words are on standard error."""


@dataclass(frozen=True)
class Contender:
    """Who is measured: libvdestack without ``loop``, aioioth on it otherwise."""

    title: str
    loop: str = ""
    streams: bool = False


LIBVDESTACK = Contender("libvdestack (C)")
CONTENDERS = (
    LIBVDESTACK,
    Contender("aioioth, asyncio, C application", "asyncio"),
    Contender("aioioth, uvloop, C application", "uvloop"),
    Contender("aioioth, asyncio, streams", "asyncio", streams=True),
    Contender("aioioth, uvloop, streams", "uvloop", streams=True),
)


@dataclass(frozen=True)
class Result:
    """What one connection came to."""

    gbit: float
    round_trip: float


# One end with aioioth, in a process of its own. Called as vdestack_tcp is, with the
# loop, the application and the profiler in front.


async def _end(application: str, profiler: str, vnl: str, ip: str, *task: str) -> None:
    from aioioth import Stack  # the driver does without

    async with Stack(vnl, ip=ip) as stack:
        with _profiled(profiler, stack):
            if application != "streams":
                await _run_program(stack, application, ip, *task)
            elif task[0] == "serve":
                await _serve(stack, ip.partition("/")[0], int(task[1]))
            else:
                await _connect(stack, task[1], int(task[2]), float(task[3]))


async def _run_program(stack: Stack, program: str, ip: str, *task: str) -> None:
    with stack.socket() as sock:
        sock.setblocking(True)
        number = sock.fileno()
        process = await asyncio.create_subprocess_exec(
            program, f"fd:{number}", ip, *task, pass_fds=[number]
        )
    if await process.wait():
        sys.exit(1)


async def _serve(stack: Stack, host: str, port: int) -> None:
    over = asyncio.Event()

    async def converse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while await reader.readexactly(1) == b"p":
            writer.write(b"p")
        start, count = time.monotonic_ns(), 0
        while data := await reader.read(len(_CHUNK)):
            count += len(data)
        writer.write(_ANSWER.pack(count, time.monotonic_ns() - start))
        await asyncio.to_thread(sys.stdin.read)
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await stack.start_server(converse, host, port)
    print("ready", flush=True)
    await over.wait()
    server.close()


async def _connect(stack: Stack, host: str, port: int, seconds: float) -> None:
    reader, writer = await stack.open_connection(host, port)
    pings: list[float] = []
    before = time.monotonic()
    end = before + _PING_SECONDS
    while before < end:
        writer.write(b"p")
        await reader.readexactly(1)
        after = time.monotonic()
        pings.append((after - before) * 1e6)
        before = after
    writer.write(b"d")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        writer.write(_CHUNK)
        await writer.drain()
    writer.write_eof()
    count, nanoseconds = _ANSWER.unpack(await reader.readexactly(_ANSWER.size))
    print(8 * count / nanoseconds, statistics.median(pings), flush=True)
    writer.close()
    await writer.wait_closed()


@contextlib.contextmanager
def _profiled(profiler: str, stack: Stack) -> Iterator[None]:
    if not profiler:
        yield
        return
    before = resource.getrusage(resource.RUSAGE_SELF)
    with _perf() if profiler == "perf" else _cprofile():
        yield
        after = resource.getrusage(resource.RUSAGE_SELF)
    traffic = stack.stats()["vde0"]
    frames = traffic.sent.frames + traffic.received.frames
    user = (after.ru_utime - before.ru_utime) / frames * 1e6
    system = (after.ru_stime - before.ru_stime) / frames * 1e6
    print(f"{frames} frames; each took {user:.1f} us user, {system:.1f} us system")
    for way, counters in (("sent", traffic.sent), ("received", traffic.received)):
        print(f"{way}: {counters}")


@contextlib.contextmanager
def _cprofile() -> Iterator[None]:
    profile = cProfile.Profile()
    with profile:
        yield
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(9)
    _, table, lines = text.getvalue().partition("   ncalls")
    print(table + lines.rstrip())


@contextlib.contextmanager
def _perf() -> Iterator[None]:
    with tempfile.NamedTemporaryFile(prefix="perf-", dir=Path.cwd()) as data:
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
            lines = [line.rstrip() for line in text.splitlines() if line.strip()]
            print("\n".join(lines))


# The driver.


@contextlib.asynccontextmanager
async def _running(command: list[str]) -> AsyncIterator[Process]:
    # In a group of its own, with whatever it starts: nothing is left if it hangs.
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


class Bench:
    """A switch, a program, and the measurements with them.

    Args:
        directory: Empty; for all files of the run.
        seconds: How long each connection sends.
    """

    def __init__(self, directory: Path, seconds: float) -> None:
        self._seconds = seconds
        self._program = directory / "vdestack_tcp"
        self._switch = directory / "switch"
        self._pid_file = directory / "switch.pid"

    def compile(self) -> None:
        """Make the program in C; ends this one if it cannot be made."""
        command = ["gcc", "-O2", "-o", str(self._program), str(_SOURCE)]
        done = subprocess.run(
            [*command, "-lvdestack", "-lvdeplug"],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            words = done.stderr.rstrip()
            _give_up(f"vdestack_tcp.c does not compile:\n{words}\nInstall: {_LIBRARY}")

    @contextlib.contextmanager
    def switch(self) -> Iterator[None]:
        """Run a vde_switch."""
        names = ["-s", str(self._switch), "-p", str(self._pid_file)]
        subprocess.run(["vde_switch", "-d", *names], check=True)
        end = time.monotonic() + _SPARE_SECONDS
        while not self._pid() or not (self._switch / "ctl").exists():
            if time.monotonic() > end:
                msg = "vde_switch did not start"
                raise FailedError(msg)
            time.sleep(0.01)
        pid = self._pid()
        try:
            yield
        finally:
            os.kill(pid, signal.SIGTERM)

    def _pid(self) -> int:
        try:
            return int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _command(self, contender: Contender, profiler: str, ip: str) -> list[str]:
        there = [f"vde://{self._switch}", f"{ip}/24"]
        if not contender.loop:
            return [str(self._program), *there]
        application = "streams" if contender.streams else str(self._program)
        ours = [sys.executable, __file__, "end", contender.loop]
        return [*ours, application, profiler, *there]

    async def measure(
        self, contender: Contender, profiler: str = ""
    ) -> tuple[Result, str, str]:
        """Measure one connection.

        Returns:
            What it came to, and the profiles of the sending and the receiving end.

        Raises:
            FailedError: It did not come about.
        """
        server = self._command(contender, profiler, _SERVER)
        client = self._command(contender, profiler, _CLIENT)
        task = [_SERVER, str(_PORT), str(self._seconds)]
        try:
            async with (
                asyncio.timeout(self._seconds + _SPARE_SECONDS),
                _running([*server, "serve", str(_PORT)]) as receiving,
            ):
                assert receiving.stdout is not None
                if await receiving.stdout.readline() != b"ready\n":
                    msg = f"{contender.title}: the server ended too early"
                    raise FailedError(msg)
                async with _running([*client, "connect", *task]) as sending:
                    sent, _ = await sending.communicate()
                received, _ = await receiving.communicate(b"")
        except TimeoutError:
            msg = f"{contender.title}: it does not end"
            raise FailedError(msg) from None
        if sending.returncode or receiving.returncode:
            msg = f"{contender.title}: an end failed"
            raise FailedError(msg)
        numbers, _, profile = sent.decode().partition("\n")
        return Result(*map(float, numbers.split())), profile, received.decode()


async def _compare(bench: Bench, contenders: list[Contender], rounds: int) -> None:
    results: dict[Contender, list[Result]] = {each: [] for each in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            _progress(f"round {number} of {rounds}: {contender.title}")
            result, _, _ = await bench.measure(contender)
            results[contender].append(result)
    _progress("")
    peers = results[LIBVDESTACK]
    print(f"{'':34}{'TCP':>5}{'':24}{'round trip':>7}")
    print(f"{'':34}{'ratio':>5}   {'Gbit/s':21}{'ratio':>5}   p50, us")
    reached = []
    for contender, ours in results.items():
        ratio, text = _column([each.gbit for each in ours], [x.gbit for x in peers], 2)
        _, trips = _column(
            [each.round_trip for each in ours], [x.round_trip for x in peers], 0
        )
        print(f"{contender.title:34}{text:29}{trips}".rstrip())
        if contender.loop and not contender.streams:
            word = "reached" if ratio >= _GOAL else "missed"
            reached.append(f"{word} on {contender.loop}")
    print(f"\nGoal, C application: a TCP ratio of {_GOAL}: {', '.join(reached)}.")


def _column(ours: list[float], theirs: list[float], digits: int) -> tuple[float, str]:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    low, middle, high = min(ours), statistics.median(ours), max(ours)
    span = f"({low:.{digits}f}-{high:.{digits}f})"
    return ratio, f"{ratio:5.2f}   {middle:.{digits}f} {span}"


async def _profile(bench: Bench, contenders: list[Contender]) -> None:
    profilers = ["perf"] if shutil.which("perf") else []
    for contender in contenders:
        if not contender.loop or contender.streams:
            continue
        for profiler in (*profilers, "cProfile"):
            result, sending, receiving = await bench.measure(contender, profiler)
            print(f"== {contender.title}, {result.gbit:.2f} Gbit/s under {profiler}")
            print(f"-- sending end's pump process\n{sending.strip()}")
            text = receiving.strip()
            print(f"-- receiving end's pump process\n{text}\n")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _give_up(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(2)


def _check() -> None:
    """End, and say what to do, if something is missing."""
    for program, remedy in _PROGRAMS.items():
        if shutil.which(program) is None:
            _give_up(f"{program} is missing. Install: {remedy}")
    if importlib.util.find_spec("aioioth") is None:
        _give_up("aioioth is missing in this Python. Install: pip install --editable .")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        _give_up(
            f"libvdestack cannot run here, so there is nothing to compare with:\n"
            f"it needs /dev/net/tun ({error.strerror}). Run this as root, or let\n"
            f"everybody use it, as most systems do: chmod 0666 /dev/net/tun"
        )


def _contenders() -> list[Contender]:
    if importlib.util.find_spec("uvloop"):
        return list(CONTENDERS)
    print("Without uvloop, which is not installed: pip install uvloop")
    return [each for each in CONTENDERS if each.loop != "uvloop"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="for each connection; default: 2"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead of comparing, print where the time of aioioth's pumps goes "
        "(perf, if there, and cProfile)",
    )
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if not arguments.isolated:
        _check()
        again = [sys.executable, str(_ISOLATE), sys.executable, __file__]
        os.execv(sys.executable, [*again, *sys.argv[1:], "--isolated"])
    # Ended from outside, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="aioioth-pump-") as directory:
        os.chdir(directory)
        bench = Bench(Path(directory), arguments.seconds)
        bench.compile()
        contenders = _contenders()
        try:
            with bench.switch():
                if arguments.profile:
                    asyncio.run(_profile(bench, contenders))
                else:
                    print(
                        f"One TCP stream between two ends on one vde_switch, MTU 1500."
                        f"\n{arguments.rounds} rounds of {arguments.seconds:g} s; "
                        f"medians (min-max).\n"
                    )
                    asyncio.run(_compare(bench, contenders, arguments.rounds))
        except FailedError as error:
            sys.exit(str(error))


def main_of_end() -> None:
    loop = sys.argv[2]
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop != "asyncio":
        factory = importlib.import_module(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_end(*sys.argv[3:]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["end"]:
        main_of_end()
    else:
        main()
