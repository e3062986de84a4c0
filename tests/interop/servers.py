"""Real servers inside of stacks: started, made ready, and ended with a block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aioioth

# Any wait for a server that takes this long has failed.
PATIENCE = 30.0

_POSTGRESQL = Path("/usr/lib/postgresql")

# What makes it start quickly, and what is not for tests.
_QUICK = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "listen_addresses": "*",
    "max_connections": "10",
    "max_wal_senders": "0",
    "shared_buffers": "1MB",
    "synchronous_commit": "off",
    "unix_socket_directories": "",
    "wal_level": "minimal",
}
_ANYBODY = "host all all all trust\n"


def _program(name: str) -> str:
    """Return a PostgreSQL program's path; Debian keeps them out of PATH."""
    found = sorted(_POSTGRESQL.glob(f"*/bin/{name}"))
    path = shutil.which(name) or (str(found[-1]) if found else None)
    if path is None:
        pytest.skip(f"not installed: {name} (Debian: postgresql)")
    return path


def _not_root() -> dict[str, Any]:
    """Return who runs PostgreSQL, which refuses to be root's."""
    if os.geteuid():
        return {}
    ranges = Path("/proc/self/uid_map").read_text().splitlines()
    if sum(int(line.split()[2]) for line in ranges) == 1:
        pytest.skip("PostgreSQL does not run as root, and here is nobody else")
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def make_database(home: Path) -> Path:
    """Return a new PostgreSQL data directory below ``home``, an absolute path."""
    who = _not_root()
    data = home / "data"
    data.mkdir(mode=0o700)
    if who:
        os.chown(home, who["user"], who["group"])
        os.chown(data, who["user"], who["group"])
    options = ["--auth=trust", "--no-sync", "--username=postgres", "--locale=C"]
    subprocess.run(
        [_program("initdb"), *options, "--encoding=UTF8", data],
        check=True,
        capture_output=True,
        cwd=home,
        **who,
    )
    (data / "pg_hba.conf").write_text(_ANYBODY)
    return data


@asynccontextmanager
async def postgresql(stack: aioioth.Stack, data: Path) -> AsyncIterator[None]:
    """Run PostgreSQL in ``stack``, on all addresses and port 5432."""
    settings = [f"--{name}={value}" for name, value in _QUICK.items()]
    command = [_program("postgres"), "-D", str(data), *settings]
    # It quickly ends on SIGINT, and waits for its clients on SIGTERM.
    who = _not_root()
    async with _running(stack, command, signal.SIGINT, cwd=data, **who):
        # It listens, and refuses, before it is ready; its pid file says when.
        async with asyncio.timeout(PATIENCE):
            while "ready" not in _text(data / "postmaster.pid"):
                await asyncio.sleep(0.01)
        yield


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@asynccontextmanager
async def redis(stack: aioioth.Stack, home: Path) -> AsyncIterator[None]:
    """Run Redis in ``stack``, on all addresses and port 6379."""
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    command = ["redis-server", "--bind", "*", "--protected-mode", "no", "--save", ""]
    async with _running(stack, command, signal.SIGTERM, cwd=home):
        await stack.wait_listening("127.0.0.1", 6379, PATIENCE)
        yield


@asynccontextmanager
async def _running(
    stack: aioioth.Stack, command: list[str], ending: signal.Signals, **kwds: Any
) -> AsyncIterator[None]:
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
        process = await stack.create_subprocess_exec(
            *command, stdin=nothing, stdout=nothing, stderr=nothing, **kwds
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(ending)
        try:
            async with asyncio.timeout(PATIENCE):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    assert status == 0, f"{command[0]} ended with status {status}"
