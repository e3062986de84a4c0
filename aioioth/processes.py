"""Programs in a stack: `asyncio.create_subprocess_exec` and its relatives.

A program in a stack sees the stack's interfaces, addresses and ports instead of the
host's, and shares everything else with the host: files, users, processes. See
`create_subprocess_exec`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import socket
from typing import IO, TYPE_CHECKING, Any

from aioioth._kinds import HostSpace
from aioioth._launch import Streams, Surroundings, launch
from aioioth._namespace import Namespace
from aioioth._popen import Argument, Popen
from aioioth.errors import AioiothError, ConfigurationError
from aioioth.streams import LIMIT

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from aioioth.stack import Stack

__all__ = [
    "Argument",
    "create_subprocess_exec",
    "create_subprocess_shell",
    "run",
    "wait_listening",
]

# Between two attempts to connect. A server that is about to listen does so within
# milliseconds; one that takes seconds is not to be bothered.
_FIRST_DELAY, _LONGEST_DELAY = 0.005, 0.1

# A backslash and what it quotes, a quoted text (perhaps without an end), any character.
_PIECE = re.compile(r"""\\.|'[^']*'?|"(?:\\.|[^"\\])*"?|.""", re.DOTALL)

_LONGEST_HOSTNAME = 63  # one label, RFC 1123


async def create_subprocess_exec(
    stack: Stack,
    program: Argument,
    *args: Argument,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    limit: int = LIMIT,
    **kwds: Any,
) -> Process:
    """Start a program in ``stack``, as `asyncio.create_subprocess_exec`.

    The program sees the stack's interfaces, addresses and ports, and nothing of the
    host's network. Its host name is the stack's name, with hyphens for what a host name
    cannot have. Its ``/etc/hosts`` is `Stack.hosts` and its own name, its
    ``/etc/resolv.conf`` has the stack's DNS servers, and names are asked for nowhere
    else; a change to the stack is seen by programs that are started later. Users,
    files and processes are the host's.

    It may do with the stack's network what root may: ports below 1024, ``ping``,
    ``ip address add``, packet captures (the ambient capabilities CAP_NET_BIND_SERVICE,
    CAP_NET_BROADCAST, CAP_NET_ADMIN and CAP_NET_RAW). Otherwise it is who we are. For
    an ordinary user, set-user-ID bits and capabilities of files, as ``sudo`` has them,
    are without effect.

    It ends when we do: the kernel kills it when the thread that started it, the event
    loop's, is gone, however that came. What it starts itself is its own affair, and one
    that changes its user later outlives us.

    Args:
        stack: Where; with the kind ``kernel`` this is asyncio's own function.
        program: Path, or a name to be looked for in ``PATH``.
        args: Its arguments.
        stdin: As `asyncio.create_subprocess_exec`, like ``stdout`` and ``stderr``.
        stdout: See ``stdin``.
        stderr: See ``stdin``.
        limit: For the streams' buffers, in bytes.
        kwds: What `subprocess.Popen` takes besides; on uvloop too, except ``pipesize``.
            ``user``, ``group`` and ``extra_groups`` can be others than our own if we
            are root. ``preexec_fn`` is called before all else, still outside of the
            stack.

    Returns:
        asyncio's own object for the program, which runs.

    Raises:
        OSError: As asyncio raises it: there is no such program or working directory.
        ValueError: As asyncio raises it; or ``close_fds`` is false.
        MissingPrivilegeError: The kernel refuses namespaces or mounts.
        ClosedError: The stack is not open.

    Cancellation:
        The program is killed if it runs already. Nothing is left.
    """
    space = _namespace(stack)
    streams = Streams(stdin, stdout, stderr, limit)
    if space is None:
        return await asyncio.create_subprocess_exec(
            program, *args, **vars(streams), **kwds
        )
    if kwds.pop("shell", False):
        msg = "shell must be False"
        raise ValueError(msg)
    around = _surroundings(stack)
    return await launch(space, around, [program, *args], streams, Popen(**kwds))


async def create_subprocess_shell(  # noqa: PLR0917  (as asyncio's)
    stack: Stack,
    cmd: str | bytes,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    limit: int = LIMIT,
    **kwds: Any,
) -> Process:
    """Run a shell command in ``stack``, as `asyncio.create_subprocess_shell`.

    By ``/bin/sh -c``, or by ``executable``. See `create_subprocess_exec`.
    """
    streams = Streams(stdin, stdout, stderr, limit)
    if _namespace(stack) is None:
        return await asyncio.create_subprocess_shell(cmd, **vars(streams), **kwds)
    command: object = cmd
    if not isinstance(command, (bytes, str)):
        msg = "cmd must be a string"
        raise ValueError(msg)  # noqa: TRY004  (as asyncio)
    if not kwds.pop("shell", True):
        msg = "shell must be True"
        raise ValueError(msg)
    shell = kwds.get("executable") or "/bin/sh"
    return await create_subprocess_exec(
        stack, shell, "-c", command, **vars(streams), **kwds
    )


def _namespace(stack: Stack) -> Namespace | None:
    """Return the stack's namespace; None if it is the host's own stack."""
    space = stack._parts().space  # noqa: SLF001
    if isinstance(space, Namespace):
        return space
    if isinstance(space, HostSpace):
        return None
    msg = f"{stack}: programs cannot be started in a stack of kind {stack.kind!r}"
    raise ConfigurationError(msg)


def _surroundings(stack: Stack) -> Surroundings:
    hostname = _hostname(stack.name)
    hosts = stack.hosts.render()
    if hostname not in stack.hosts and hostname != "localhost":
        addresses = [str(address.ip) for _, address in stack._settings.addresses]  # noqa: SLF001
        hosts += f"{[*addresses, '127.0.1.1'][0]} {hostname}\n"
    return Surroundings(hostname, hosts, stack.resolver.resolv_conf())


def _hostname(name: str) -> str:
    """Return ``name`` with all replaced that a host name cannot have (RFC 1123)."""
    valid = re.sub(r"[^A-Za-z0-9-]+", "-", name)[:_LONGEST_HOSTNAME].strip("-")
    return valid or "stack"


async def run(stack: Stack, commands: str) -> int:
    """Run programs in ``stack``, one after the other, until one fails.

    The meaning of libioth's ``vde_stackcmd``. There is no shell: no variables, no
    patterns, no redirection, no search in ``PATH``. Each program reads nothing and
    writes to where we write.

    Args:
        stack: Where; see `create_subprocess_exec`.
        commands: Absolute paths with arguments, separated by ``;``. Quotes and
            backslashes as in a shell.

    Returns:
        The exit status of the last one that ran: 0 if none failed. The negated number
        of a signal, if that ended it.

    Raises:
        ConfigurationError: A quote is not closed, or a path is not absolute; nothing
            was run.
        OSError: As `create_subprocess_exec`; what came before has run.

    Cancellation:
        The program that runs is killed and collected, the rest is not run.
    """
    status = 0
    for arguments in _parse(commands):
        process = await create_subprocess_exec(
            stack, *arguments, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            status = await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if status:
            break
    return status


def _parse(commands: str) -> list[list[str]]:
    """Return the arguments of each command.

    Raises:
        ConfigurationError: A quote is not closed, or a path is relative.
    """
    parsed = []
    for command in _split(commands):
        try:
            arguments = shlex.split(command)
        except ValueError as error:
            msg = f"{command.strip()!r}: {error}"
            raise ConfigurationError(msg) from None
        if not arguments:
            continue
        if not os.path.isabs(arguments[0]):  # noqa: PTH117
            msg = (
                f"{arguments[0]!r} is no absolute path, and there is no search: "
                f"write '/usr/bin/...', or use create_subprocess_exec"
            )
            raise ConfigurationError(msg)
        parsed.append(arguments)
    return parsed


def _split(commands: str) -> list[str]:
    """Split at each ``;`` that is not quoted; quotes are left for `shlex`."""
    pieces = [""]
    for piece in _PIECE.findall(commands):
        if piece == ";":
            pieces.append("")
        else:
            pieces[-1] += piece
    return pieces


async def wait_listening(
    stack: Stack, host: str, port: int, timeout: float | None = None
) -> None:
    """Wait until a connection from ``stack`` to ``host`` and ``port`` is accepted.

    The connection is closed at once. A server that takes only one, or that counts
    them, notices.

    Args:
        stack: Where to connect from.
        host: Name or address, as for `aioioth.open_connection`.
        port: TCP port.
        timeout: Seconds; None waits for ever.

    Raises:
        TimeoutError: Nobody listened in time; the message has the last error, and the
            cause is that error.
        socket.gaierror: The name is not known.
        ClosedError: The stack is not open.
    """
    last: OSError | None = None
    try:
        async with asyncio.timeout(timeout):
            delay = _FIRST_DELAY
            while (failure := await _attempt(stack, host, port)) is not None:
                last = failure
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
    except TimeoutError:
        reason = "nothing answered" if last is None else str(last)
        msg = f"nobody listens on {host} port {port} after {timeout} s: {reason}"
        raise TimeoutError(msg) from last


async def _attempt(stack: Stack, host: str, port: int) -> OSError | None:
    """Connect once; return what went wrong, unless it will always go wrong."""
    try:
        _, writer = await stack.open_connection(host, port)
    except OSError as error:
        if _is_for_good(error):
            raise
        return error
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None


def _is_for_good(error: OSError) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    return isinstance(error, AioiothError)
