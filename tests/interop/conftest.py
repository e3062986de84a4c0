"""Foreign programs to talk to: started, made ready, and ended with each test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from typing_extensions import override

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterator,
        Sequence,
    )

    from aioioth import Stack

# Any wait for a foreign program that takes this long has failed.
PATIENCE = 10.0

THEIRS = ["10.0.0.2/24", "fd00::2/64"]


def need(*programs: str) -> None:
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(
            f"not installed: {', '.join(missing)}; see tests/interop/install-peers"
        )


def soon(what: str) -> Iterator[None]:
    """Poll: ``for _ in soon("..."): if done: break``. Fails when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        yield
        time.sleep(0.002)
    pytest.fail(f"{what}: not within {PATIENCE:g} s")


def end_process(pidfd: int) -> None:
    """Kill the process, wait until it is gone, and close its descriptor."""
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], PATIENCE)[0], "a killed process lives on"
    finally:
        os.close(pidfd)


@contextmanager
def running(
    *command: str,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and end it and what it has started when the block is left."""
    with subprocess.Popen(
        command,
        bufsize=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                # vdens does not end the program in its namespace when it is ended.
                family = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                for child in family.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        end_process(os.pidfd_open(int(child)))
                process.kill()


# The networks


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a name that is short enough for UNIX sockets."""
    with tempfile.TemporaryDirectory(prefix="aioioth-") as name:
        yield Path(name)


class VdeSwitch:
    """A vde_switch in the background, with its management console."""

    def __init__(self, home: Path, *prefix: str) -> None:
        self.directory = home / "sw"
        self.vnl = f"vde://{self.directory}"
        self._home = home
        self._prefix = prefix
        self._pidfd = -1
        self._undo = ExitStack()

    def start(self) -> None:
        pid_file, console = self._home / "pid", self._home / "console"
        pid_file.unlink(missing_ok=True)
        command: list[str | Path] = [*self._prefix, "vde_switch", "-d"]
        command += ["-s", self.directory, "-p", pid_file, "-M", console]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        for _ in soon("vde_switch writes its pid file"):
            with contextlib.suppress(OSError, ValueError):
                self._pidfd = os.pidfd_open(int(pid_file.read_text()))
                break
        self._undo.callback(end_process, self._pidfd)
        # Once, and kept: vde_switch 2.3.2 sometimes does not free the port of a client
        # that goes at the same moment as somebody at the console.
        self._console = self._undo.enter_context(socket.socket(socket.AF_UNIX))
        self._console.settimeout(PATIENCE)
        for _ in soon("vde_switch answers"):
            with contextlib.suppress(OSError):
                self._console.connect(os.fspath(console))
                break
        self._read_to_prompt()

    def command(self, line: str) -> str:
        """Give the management console a command and return the answer."""
        self._console.sendall(line.encode() + b"\n")
        answer = self._read_to_prompt()
        assert "1000 Success" in answer, answer
        return answer

    def _read_to_prompt(self) -> str:
        text = b""
        while not text.endswith(b"vde$ "):
            data = self._console.recv(65536)
            assert data, "vde_switch has ended"
            text += data
        return text.decode()

    def ports(self) -> dict[int, list[str]]:
        """Return the active ports, and who says to be there."""
        found: dict[int, list[str]] = {}
        for port in re.split(r"(?m)^Port ", self.command("port/print"))[1:]:
            found[int(port[:4])] = re.findall(r"(?m)-- endpoint .*? : (.*)$", port)
            assert "ACTIVE" in port.splitlines()[0]
        return found

    async def until_ports(self, wanted: set[int]) -> None:
        """Wait until these ports are the active ones."""
        async with asyncio.timeout(PATIENCE):
            while set(self.ports()) != wanted:
                await asyncio.sleep(0.002)

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End it the hard way: its files stay. Idempotent."""
        self._undo.close()


@contextmanager
def _vde_switch(home: Path, *prefix: str) -> Iterator[VdeSwitch]:
    need("vde_switch", *prefix[:1])
    switch = VdeSwitch(home, *prefix)
    try:
        switch.start()
        yield switch
    finally:
        switch.kill()


@pytest.fixture
def vde_switch(home: Path) -> Iterator[VdeSwitch]:
    with _vde_switch(home) as switch:
        yield switch


@pytest.fixture
def distant_vde_switch(home: Path) -> Iterator[VdeSwitch]:
    """A vde_switch in a network namespace of its own."""
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    with _vde_switch(home, "unshare", flags) as switch:
        yield switch


@pytest.fixture
def node(home: Path) -> Iterator[Path]:
    """Directory of the switch that vde_plug has inside."""
    need("vde_plug")
    directory = home / "node"
    with running("vde_plug", "null://", f"switch://{directory}"):
        for _ in soon("vde_plug listens"):
            if listens(directory / "ctl"):
                break
        yield directory


def listens(path: Path | str) -> bool:
    """Whether somebody listens on a UNIX socket of this name."""
    # Not by connecting: vde_plug 4.0.1 uses up the processor, and loses frames, once
    # somebody has connected and gone without a word. Flags 00010000 are those of a
    # socket that listens, __SO_ACCEPTCON in <linux/net.h>.
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(" 00010000 " in line and line.endswith(f" {path}") for line in lines)


async def until_listening(
    path: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Wait until somebody listens on a UNIX socket, or fail if the process ends."""
    async with asyncio.timeout(PATIENCE):
        while not listens(path):
            assert process is None or process.poll() is None, "it has ended"
            await asyncio.sleep(0.002)


# The peers

# vdens 0.2 sometimes misses the end of its command, and then never ends itself.
END = b"\4"


def _read_to_end(stream: IO[bytes]) -> str:
    text = b""
    while not text.endswith(END) and (data := stream.read(65536)):
        text += data
    return text.removesuffix(END).decode()


class Peer(ABC):
    """A foreign TCP/IP stack on a virtual network; its addresses are THEIRS.

    Args:
        directory: The switch's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = os.fspath(directory)

    @abstractmethod
    async def ping(self, host: str) -> str:
        """Ask for one ICMP echo and return what `ping` says about it."""

    @abstractmethod
    async def ask(self, host: str, port: int, text: str) -> str:
        """Connect, send the text, and return what comes back until the end."""

    @abstractmethod
    def serving(
        self, host: str, port: int
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Serve TCP echo on one of THEIRS as long as the block lasts."""

    @staticmethod
    async def _output(command: list[str], text: str | None = None) -> str:
        with running(*command) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if text is not None:
                process.stdin.write(text.encode())
                process.stdin.close()
            async with asyncio.timeout(PATIENCE):
                return await asyncio.to_thread(_read_to_end, process.stdout)

    @staticmethod
    @contextlib.asynccontextmanager
    async def _ready(
        command: list[str],
        sign: bytes,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
    ) -> AsyncIterator[None]:
        """Run a program from when its standard error begins with ``sign``."""
        with running(
            *command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE):
                line = await asyncio.to_thread(process.stderr.readline)
            assert line.startswith(sign), line
            yield


class Vdens(Peer):
    """Programs in `vdens`: ping and nc."""

    _CONFIGURE = """
        ip addr add {} dev vde0
        ip addr add {} dev vde0 nodad
        ip link set vde0 up
    """.format(*THEIRS)

    def inside(self, script: str, *arguments: str) -> list[str]:
        """Return what to run to have a shell script run in the namespace."""
        script = self._CONFIGURE + script
        return ["vdens", self.directory, "sh", "-ec", script, "sh", *arguments]

    @contextmanager
    def started(self, *command: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Run a command in the namespace; gives its standard input and output."""
        with running(*self.inside('exec "$@"', *command)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            yield process.stdin, process.stdout

    @override
    async def ping(self, host: str) -> str:
        return await self._told("ping", "-c", "1", "-W", "5", host)

    @override
    async def ask(self, host: str, port: int, text: str) -> str:
        return await self._told("nc", "-nN", host, str(port), text=text)

    async def _told(self, *command: str, text: str | None = None) -> str:
        script = f'"$@"; printf "\\{END[0]}"'
        return await self._output(self.inside(script, *command), text)

    @override
    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[None]:
        with ExitStack() as undo:
            # What nc receives goes through a pipe to nc's own input: an echo.
            reading, writing = os.pipe()
            undo.callback(os.close, reading)
            undo.callback(os.close, writing)
            command = self.inside('exec "$@"', "nc", "-nlv", host, str(port))
            async with self._ready(command, b"Listening", reading, writing):
                yield


class Vdestack(Peer):
    """A program in C with libvdestack: vdestack_echo.c."""

    def __init__(self, directory: Path, program: Path) -> None:
        super().__init__(directory)
        self._arguments = [os.fspath(program), self.directory, *THEIRS]

    @override
    async def ping(self, host: str) -> str:
        command = f"{shutil.which('ping')} -c 1 -W 5 {host}"
        return await self._output([*self._arguments, "run", command])

    @override
    async def ask(self, host: str, port: int, text: str) -> str:
        return await self._output([*self._arguments, "connect", host, str(port), text])

    @override
    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[None]:
        async with self._ready([*self._arguments, "serve", str(port)], b"ready"):
            yield


@pytest.fixture(scope="session")
def vdestack_echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled vdestack_echo.c."""
    need("gcc")
    if not Path("/usr/include/vdestack.h").exists():
        pytest.skip("not installed: libvdestack-dev; see tests/interop/install-peers")
    program = tmp_path_factory.mktemp("vdestack") / "vdestack_echo"
    source = Path(__file__).with_name("vdestack_echo.c")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        ["gcc", *warnings, "-o", program, source, "-lvdestack", "-lvdeplug"],
        check=True,
    )
    return program


@pytest.fixture
def vdens(tap_opens: bool, vde_switch: VdeSwitch) -> Vdens:
    """On a vde_switch."""
    return _vdens(vde_switch.directory, tap_opens=tap_opens)


@pytest.fixture
def vdens_on_node(tap_opens: bool, node: Path) -> Vdens:
    """On vde_plug's switch."""
    return _vdens(node, tap_opens=tap_opens)


@pytest.fixture
def vdestack(tap_opens: bool, vde_switch: VdeSwitch, vdestack_echo: Path) -> Vdestack:
    """On a vde_switch."""
    need("ip", "ping")
    _need_tap("libvdestack", tap_opens=tap_opens)
    return Vdestack(vde_switch.directory, vdestack_echo)


def _vdens(directory: Path, *, tap_opens: bool) -> Vdens:
    need("vdens", "ip", "nc", "ping")
    _need_tap("vdens", tap_opens=tap_opens)
    return Vdens(directory)


def _need_tap(who: str, *, tap_opens: bool) -> None:
    if not tap_opens:
        pytest.skip(f"{who} needs /dev/net/tun, which this user may not open")


# Shells elsewhere, and the kernel's own networks


def may_configure_networks() -> bool:
    """Whether we may make interfaces and routes where the tests run."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"(?m)^CapEff:\s*([0-9a-f]+)$", status)
    assert found is not None
    return bool(int(found[1], 16) >> 12 & 1)  # CAP_NET_ADMIN, <linux/capability.h>


def ip(command: str) -> None:
    """Do ``ip COMMAND`` where the tests run; only root there may."""
    need("ip")
    if not may_configure_networks():
        pytest.skip("needs root: interfaces and routes of the kernel's")
    subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture
def ipv6_multicast_on_lo() -> Iterator[None]:
    """Groups of ff05::/16 are reached through ``lo``; IPv4's are anyway.

    Linux takes any other than a "local" route through ``lo`` for one that rejects.
    """
    ip("-6 route add local ff05::/16 dev lo")
    yield
    ip("-6 route del local ff05::/16 dev lo")


@pytest.fixture
def distant(home: Path) -> Iterator[int]:
    """Process that holds a network namespace, to which a cable leads.

    The near end is ``near0``, here, with 10.9.0.1 and fd09::1; the far end is ``far0``,
    there, with 10.9.0.2 and fd09::2.
    """
    need("unshare")
    if not may_configure_networks():
        pytest.skip("needs root: interfaces of the kernel's")
    ready = home / "ready"
    with running("unshare", "-n", "sh", "-c", f"> {ready}; exec cat") as process:
        for _ in soon("a network namespace"):
            if ready.exists():
                break
        ip(f"link add near0 type veth peer name far0 netns {process.pid}")
        there = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip"]
        for end, number, do in ("near0", 1, ["ip"]), ("far0", 2, there):
            for what in (
                f"address add 10.9.0.{number}/24 dev {end}",
                f"address add fd09::{number}/64 dev {end} nodad",
                f"link set {end} up mtu 9100",
            ):
                subprocess.run([*do, *what.split()], check=True)
        yield process.pid
        ip("link del near0")


class Shell:
    """A POSIX shell that runs somewhere else, and what it answers."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout

    def begin(self, commands: str) -> None:
        """Have commands run; what they print, errors too, is for `line` and `rest`."""
        text = f"{{ {commands}\n}} 2>&1 </dev/null; printf '\\{END[0]}'\n"
        self._to.write(text.encode())

    async def line(self) -> str:
        """Return the next line that the commands print."""
        async with asyncio.timeout(PATIENCE):
            return (await self._from.readuntil()).decode()

    async def rest(self) -> str:
        """Return what the commands print until they have ended."""
        async with asyncio.timeout(PATIENCE):
            return (await self._from.readuntil(END)).removesuffix(END).decode()

    async def run(self, commands: str) -> str:
        """Have commands run, and return what they print."""
        self.begin(commands)
        return await self.rest()


@contextlib.asynccontextmanager
async def a_shell(
    *command: str,
    start: Callable[..., Awaitable[Process]] = asyncio.create_subprocess_exec,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Shell]:
    """Run what becomes a shell; all of it ends with the block.

    Args:
        command: For example ``vdens VNL sh``.
        start: What starts it.
        pass_fds: Descriptors that it inherits.
    """
    process = await start(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
        limit=1 << 20,
        # In a group of its own: vdens does not end what runs in its namespace.
        start_new_session=True,
    )
    try:
        yield Shell(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


# Our side


@pytest.fixture
def ask() -> Callable[[Stack, str, int, str], Awaitable[str]]:
    """Client that says something and returns the answer, to its end."""

    async def client(stack: Stack, host: str, port: int, text: str) -> str:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await stack.open_connection(host, port)
            writer.write(text.encode())
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer.decode()

    return client
