"""Programs that a run starts, and what it needs to start them.

Whatever is started ends when its standard input does, so no process is left when a run
is killed; and each is in a session of its own, killed with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

__all__ = [
    "PATIENCE_SECONDS",
    "ROOT",
    "FailedError",
    "Program",
    "Tools",
    "Workplace",
    "build",
    "running",
    "speedups",
    "vde_switch",
    "why_no_tap",
    "why_without",
]

ROOT = Path(__file__).resolve().parents[1]

# To start a few interpreters on a busy machine, and for the last bytes to arrive.
PATIENCE_SECONDS = 20.0

_GRACE_SECONDS = 3.0


class FailedError(Exception):
    """A program did not do what it should; the message has its last words."""


@dataclass(frozen=True)
class Tools:
    """The load programs.

    Attributes:
        load: The command of the one that measures.
        vdestack: The same in a stack of libvdestack, or "".
        stacks: The one that makes many such stacks, or "".
        note: What the report says about them.
        why_no_vdestack: Why those of libvdestack are missing, if they are.
    """

    load: tuple[str, ...]
    vdestack: str = ""
    stacks: str = ""
    note: str = ""
    why_no_vdestack: str = ""


@dataclass(frozen=True)
class Workplace:
    """What a path, or another part of a run, works with.

    Attributes:
        directory: Empty, its own, gone after the run.
        tools: The load programs.
        loop: asyncio or uvloop, for aioioth's ends.
        profiler: ``perf`` or ``cprofile`` for aioioth's ends, or nothing.
        kept_log: A log that is not gone with the directory.
    """

    directory: Path
    tools: Tools
    loop: str = "asyncio"
    profiler: str = ""
    kept_log: Path | None = None

    @property
    def log(self) -> Path:
        """Where programs say what went wrong."""
        return self.kept_log or self.directory / "log"

    @contextlib.contextmanager
    def part(self) -> Iterator[Workplace]:
        """Yield the same with a directory of its own."""
        with tempfile.TemporaryDirectory(
            dir=self.directory, ignore_cleanup_errors=True
        ) as name:
            yield replace(self, directory=Path(name))

    def last_words(self) -> str:
        """Return the last line in the log, as the end of a sentence."""
        lines: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            lines = self.log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""


class Program:
    """A program that is talked to in lines.

    Args:
        place: For its log.
        stdin: Descriptor of our end of its standard input.
        stdout: Of its standard output.
        process: The process, if we have started it ourselves.
    """

    def __init__(
        self,
        place: Workplace,
        stdin: int,
        stdout: IO[bytes],
        process: asyncio.subprocess.Process | None = None,
    ) -> None:
        self._place = place
        self._stdin = stdin
        self._stdout = stdout
        self._process = process
        self._reader = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None

    @classmethod
    async def start(
        cls,
        place: Workplace,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start a command; what it writes to standard error goes to the log."""
        with pipes() as (theirs, ours), place.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=log,
                env={**os.environ, **(env or {})},
                cwd=ROOT,
                pass_fds=pass_fds,
                start_new_session=True,
            )
            return await cls(place, *ours.take(), process).ready()

    async def ready(self) -> Self:
        """Begin to listen to it."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), self._stdout
        )
        return self

    @property
    def pid(self) -> int:
        """Of the process that we have started ourselves."""
        assert self._process is not None
        return self._process.pid

    def say(self, text: str) -> None:
        """Write a line to it."""
        with contextlib.suppress(OSError):  # line() tells
            os.write(self._stdin, f"{text}\n".encode())

    async def line(self, patience: float = PATIENCE_SECONDS) -> str:
        """Return what it says next.

        Raises:
            FailedError: It ended instead, or took too long.
        """
        try:
            async with asyncio.timeout(patience):
                line = await self._reader.readline()
        except TimeoutError:
            msg = f"no answer within {patience:g} s{self._place.last_words()}"
            raise FailedError(msg) from None
        if not line:
            msg = f"a program ended too early{self._place.last_words()}"
            raise FailedError(msg)
        return line.decode().strip()

    async def close(self, grace: float = _GRACE_SECONDS) -> None:
        """End it; kill it after some seconds of grace."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1
        if self._process is not None:
            process, self._process = self._process, None
            await _ended(process, grace)
        if self._transport is not None:
            self._transport.close()
            self._transport = None


async def _ended(process: asyncio.subprocess.Process, grace: float) -> None:
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        # Also what it has left behind: vdens does not end what runs in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class _Ours:
    """Our ends of two pipes, closed unless they are taken."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin, self._stdout = stdin, stdout

    def take(self) -> tuple[int, IO[bytes]]:
        stdin, stdout = self._stdin, self._stdout
        self._stdin = self._stdout = -1
        return stdin, open(stdout, "rb", buffering=0)  # noqa: PTH123

    def close(self) -> None:
        for number in self._stdin, self._stdout:
            if number >= 0:
                os.close(number)


@contextlib.contextmanager
def pipes() -> Iterator[tuple[tuple[int, int], _Ours]]:
    """Yield a program's standard input and output, and our ends of them."""
    input_theirs, input_ours = os.pipe()
    output_ours, output_theirs = os.pipe()
    ours = _Ours(input_ours, output_ours)
    try:
        yield (input_theirs, output_theirs), ours
    finally:
        os.close(input_theirs)
        os.close(output_theirs)
        ours.close()


@contextlib.asynccontextmanager
async def running(
    place: Workplace,
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Program]:
    """Run a command for the length of the block; ``env`` is added to our own."""
    program = await Program.start(place, command, env)
    try:
        yield program
    finally:
        await program.close()


@contextlib.asynccontextmanager
async def vde_switch(
    place: Workplace, ports: int = 32
) -> AsyncIterator[tuple[str, int]]:
    """Run a vde_switch and yield the VNL that leads to it, and its process."""
    path = place.directory / "switch"
    # Without -d: it then ends with its standard input, however we end.
    command = ["vde_switch", "-s", str(path), "-n", str(ports)]
    async with running(place, command) as program:
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not (path / "ctl").exists():
            if asyncio.get_running_loop().time() > deadline:
                msg = f"vde_switch did not start{place.last_words()}"
                raise FailedError(msg)
            await asyncio.sleep(0.01)
        yield f"vde://{path}", program.pid


def speedups(*, used: bool) -> dict[str, str]:
    """Return the environment in which aioioth uses its compiled step, or does not."""
    return {"AIOIOTH_SPEEDUPS": "1" if used else "0"}


def why_without(program: str, package: str) -> str:
    """Return what to do if a program is missing, nothing if it is there."""
    if shutil.which(program):
        return ""
    return f"{program} is not installed (apt-get install {package})"


def why_no_tap() -> str:
    """Return why C peers cannot have a TAP here, nothing if they can."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return (
            f"it needs /dev/net/tun ({error.strerror}): run as root, or let everybody "
            f"use it, as most systems do (chmod 0666 /dev/net/tun)"
        )
    return ""


# The load programs.

_SOURCES = Path(__file__).with_name("programs")
_LIBRARY = "apt-get install libvdestack-dev libvdeplug-dev"
_IN_PYTHON = ("-IS", str(_SOURCES / "load.py"))


def build(directory: Path, python: str) -> Tools:
    """Compile the load programs; without a compiler they are Python."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return Tools(
            (python, *_IN_PYTHON),
            note="the load is Python, for want of a compiler: it is measured too",
            why_no_vdestack="there is no C compiler (apt-get install gcc libc6-dev)",
        )
    load = _compiled(compiler, directory / "load", "load.c")
    if load is None:
        return Tools(
            (python, *_IN_PYTHON),
            note="the load is Python, as load.c does not compile: it is measured too",
            why_no_vdestack="load.c does not compile (apt-get install libc6-dev)",
        )
    libraries = ["-DVDESTACK", "-lvdestack", "-lvdeplug"]
    vdestack = _compiled(compiler, directory / "load-vdestack", "load.c", *libraries)
    stacks = _compiled(compiler, directory / "stacks", "stacks.c", *libraries)
    note = "the load at both ends is a small C program, benchmarks/programs/load.c"
    if vdestack is None or stacks is None:
        why = f"it is not installed ({_LIBRARY})"
        return Tools((load,), note=note, why_no_vdestack=why)
    return Tools((load,), vdestack, stacks, note)


def _compiled(compiler: str, target: Path, source: str, *more: str) -> str | None:
    command = [compiler, "-O2", "-o", str(target), str(_SOURCES / source), *more]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    return str(target) if done.returncode == 0 else None
