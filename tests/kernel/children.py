"""Processes beside the test's: children of a fork, and whether one is still there."""

from __future__ import annotations

import asyncio
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def forked(child: Callable[[], object]) -> None:
    """Call a function in a child, which must succeed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        except BaseException:  # noqa: BLE001  (it must not reach pytest's frames)
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)

    def wait() -> tuple[str, int]:
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async with asyncio.timeout(30):
        assert await asyncio.to_thread(wait) == ("", 0)


def is_there(pid: int) -> bool:
    """Whether a process is neither gone nor a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
