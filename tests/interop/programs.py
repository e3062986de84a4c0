"""Foreign programs in stacks: started, waited for, and ended with the block."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.interop.conftest import PATIENCE, need

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from aioioth import Stack


def program(name: str) -> str:
    """Return where a program is, also if it is one of the administrator's."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        need(name)
    assert found is not None
    return found


class Program:
    """A program that runs, and what it prints."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self._printed = ""

    async def prints(self, text: str) -> None:
        """Wait until it has printed something, since it was waited for last."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while text not in self._printed:
                line = await self.process.stdout.readline()
                assert line, f"{self.name} has ended: {self._printed}"
                self._printed += line.decode()
        self._printed = self._printed.partition(text)[2]


@asynccontextmanager
async def started(
    stack: Stack, *command: str, until: str = "", **options: Any
) -> AsyncIterator[Program]:
    """Run a program; if wanted, wait until it has printed something.

    Args:
        stack: Where.
        *command: Program and arguments.
        until: What it prints.
        **options: For `Stack.create_subprocess_exec`.
    """
    process = await stack.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **options,
    )
    try:
        found = Program(command[0], process)
        if until:
            await found.prints(until)
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def dnsmasq(*options: str) -> list[str]:
    """Return how dnsmasq is run: it prints what it does, and leaves nothing."""
    return [
        program("dnsmasq"),
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--log-facility=-",
        "--pid-file=",
        f"--user={getpass.getuser()}",
        *options,
    ]


@asynccontextmanager
async def name_server(stack: Stack, address: str, *options: str) -> AsyncIterator[None]:
    """dnsmasq as a DNS server at an address of a stack, which knows nothing else."""
    command = dnsmasq(
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        f"--listen-address={address}",
        *options,
    )
    async with started(stack, *command):
        await stack.wait_listening(address, 53, timeout=20)
        yield
