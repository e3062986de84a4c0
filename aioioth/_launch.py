"""Starting the launcher program, and hearing from it whether a program runs.

The launcher is asyncio's subprocess. It enters the stack and then becomes the program
(exec), so that the `asyncio.subprocess.Process` is the program's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import marshal
import os
import signal
import sys
from asyncio.subprocess import Process, SubprocessStreamProtocol
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from aioioth import _preflight
from aioioth._popen import STEPS
from aioioth.errors import MissingPrivilegeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioioth._namespace import Namespace
    from aioioth._popen import Argument, Popen

_LAUNCHER = str(Path(__file__).with_name("_launcher.py"))

# What subprocess's restore_signals sets to the default: Python ignores these.
_RESTORED = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1


@dataclass(frozen=True)
class Surroundings:
    """What a program finds in a stack instead of what the host has.

    Attributes:
        hostname: A valid host name.
        hosts: Text of ``/etc/hosts``.
        resolv_conf: Text of ``/etc/resolv.conf``.
    """

    hostname: str
    hosts: str
    resolv_conf: str


@dataclass(frozen=True)
class Streams:
    """A program's standard streams, as `asyncio.create_subprocess_exec` takes them."""

    stdin: int | IO[Any] | None = None
    stdout: int | IO[Any] | None = None
    stderr: int | IO[Any] | None = None
    limit: int = 2**16


async def launch(
    namespace: Namespace,
    surroundings: Surroundings,
    command: Sequence[Argument],
    streams: Streams,
    popen: Popen,
) -> Process:
    """Start a program in ``namespace``, and wait until it runs.

    Raises:
        OSError: As `asyncio.create_subprocess_exec`; or the kernel refused something.

    Cancellation:
        The program is killed if it runs already, and collected.
    """
    request = popen.request(command)
    request["hostname"] = surroundings.hostname.encode()
    request["files"] = {
        "/etc/hosts": surroundings.hosts.encode(),
        "/etc/resolv.conf": surroundings.resolv_conf.encode(),
    }
    with ExitStack() as ours:
        status, theirs = os.pipe()
        ours.callback(os.close, status)
        with ExitStack() as inherited:
            inherited.callback(os.close, theirs)
            process, transport = await _start(
                inherited, namespace, request, streams, popen, status=theirs
            )
        try:
            told = await _read_all(status)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                transport.kill()
            await _collect(process, transport)
            raise
    if told == b"+":
        return process
    await _collect(process, transport)
    code, _, step = told.decode().removeprefix("+").partition(" ")
    if not step:
        msg = (
            f"the launcher ended with status {process.returncode} before it could "
            f"start the program; see what it wrote to standard error"
        )
        raise ChildProcessError(errno.ECHILD, msg)
    if step in STEPS:
        raise popen.error(int(code), step, command)
    raise _refusal(int(code), step)


async def _start(
    inherited: ExitStack,
    namespace: Namespace,
    request: dict[str, Any],
    streams: Streams,
    popen: Popen,
    *,
    status: int,
) -> tuple[Process, asyncio.SubprocessTransport]:
    """Start the launcher; ``inherited`` owns what is only for it."""
    report = _above_2(inherited, status)
    request["network_namespace"] = _above_2(inherited, namespace.fileno())
    request["user_namespace"] = namespace.user_namespace
    if namespace.user_namespace is not None:
        request["user_namespace"] = _above_2(inherited, namespace.user_namespace)
    request["parent"] = os.getpid()
    made = os.memfd_create("aioioth")
    inherited.callback(os.close, made)
    source = _above_2(inherited, made)
    preexec_fn = _write_request(source, request, popen)
    further: dict[str, Any] = (
        {} if popen.pipesize == -1 else {"pipesize": popen.pipesize}
    )
    namespaces = {request["network_namespace"], request["user_namespace"]} - {None}
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(limit=streams.limit, loop=loop),
        sys.executable,
        "-I",
        "-S",
        _LAUNCHER,
        str(report),
        str(source),
        stdin=streams.stdin,
        stdout=streams.stdout,
        stderr=streams.stderr,
        pass_fds=[*request["keep"], report, source, *namespaces],
        preexec_fn=preexec_fn,
        restore_signals=popen.restore_signals,
        **further,
    )
    return Process(transport, protocol, loop), transport


def _above_2(owner: ExitStack, descriptor: int) -> int:
    """Return a copy above 2: those below are the launcher's standard streams."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    owner.callback(os.close, copy)
    return copy


def _write_request(
    source: int, request: dict[str, Any], popen: Popen
) -> Callable[[], None] | None:
    """Fill the file with the request; a pipe would be full after 64 KiB.

    Returns:
        What to call between fork and exec, as ``preexec_fn``.
    """
    ignored, blocked = _signals()
    if popen.restore_signals:
        ignored &= ~_RESTORED
    request["blocked"] = blocked if popen.preexec_fn is None else None
    content = ignored.to_bytes(8, sys.byteorder) + marshal.dumps(request)
    with open(source, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(source, 0, os.SEEK_SET)
    preexec_fn = popen.preexec_fn
    if preexec_fn is None:
        return None

    def prepare() -> None:
        # The launcher could not see what the function does to signals: Python and
        # libuv change them once more.
        preexec_fn()
        os.pwrite(source, _signals()[0].to_bytes(8, sys.byteorder), 0)

    return prepare


def _signals() -> tuple[int, int]:
    """Return the masks of ignored and of blocked signals of this thread."""
    status = Path("/proc/thread-self/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    return int(fields["SigIgn"], 16), int(fields["SigBlk"], 16)


async def _read_all(descriptor: int) -> bytes:
    """Return what comes out of a pipe until its other end is closed."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    chunks = []

    def on_readable() -> None:
        chunk = os.read(descriptor, 4096)
        chunks.append(chunk)
        if not chunk and not over.done():
            over.set_result(None)

    loop.add_reader(descriptor, on_readable)
    try:
        await over
    finally:
        loop.remove_reader(descriptor)
    return b"".join(chunks)


async def _collect(process: Process, transport: asyncio.SubprocessTransport) -> None:
    """Collect a process that has ended or been killed, and close its pipes."""
    try:
        await process.wait()
    finally:
        transport.close()
    # The pipes close in the loop's next turns.
    for _ in range(2):
        await asyncio.sleep(0)


def _refusal(code: int, step: str) -> OSError:
    """Return the error for a step towards the stack that the kernel refused."""
    if step == "joining the user namespace":
        return _preflight.explain(step, code)
    if code not in {errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS}:
        return OSError(code, f"{step}: {os.strerror(code)}")
    advice = (
        "A program in a stack needs mount and UTS namespaces of its own. Raise the "
        "sysctls user.max_mnt_namespaces and user.max_uts_namespaces if they are low; "
        "otherwise a security module or a seccomp filter forbids it (see 'dmesg'); in "
        "a container allow mount(2), unshare(2) and setns(2)."
    )
    return MissingPrivilegeError(f"starting a program: {step}", advice, errno=code)
