"""Programs of one user on the same bridge: together, killed, and with old stacks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import errors
from tests.kernel.bridges import runtime, until
from tests.kernel.children import is_there

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

# A stack on bridge://lan that answers with its number, and asks others when it is told.
PROGRAM = """
    import asyncio, json, os, sys, aioioth
    from aioioth import _manager

    def say(*words):
        print(json.dumps(words), flush=True)

    async def main():
        number = sys.argv[1]
        if "old" in sys.argv:
            # It has a user namespace of its own before it meets the others.
            old = await aioioth.Stack("memory://m", ip="10.9.0.1/24").open()

        async def answer(reader, writer):
            writer.write(number.encode() + await reader.read())
            writer.close()

        async with (
            aioioth.Stack(
                "bridge://lan", ip=[f"10.0.0.{number}/24", f"fd00::{number}/64"]
            ) as stack,
            await stack.start_server(answer, None, 7),
        ):
            [interface] = stack.interfaces.values()
            keepers = [_manager._keeper.pid]
            keepers += [each.pid for each in _manager._foreign.values()]
            say("ready", interface.device, keepers)
            while line := await asyncio.to_thread(sys.stdin.readline):
                word, _, host = line.strip().partition(" ")
                if word == "ask":
                    reader, writer = await stack.open_connection(host, 7)
                    writer.write(b" says hello" * 10_000)
                    writer.write_eof()
                    answered = (await reader.read()).decode()
                    writer.close()
                    await writer.wait_closed()
                    assert answered.endswith(" says hello" * 10_000)
                    say(answered.partition(" ")[0])
                elif word == "add":
                    other = await old.add_interface("bridge://lan", ip=host)
                    say(other.device, other.vnl, other.attached)
                elif word == "ping":
                    pinging = await old.create_subprocess_exec(
                        "/bin/ping", "-q", "-c1", "-W5", host, stdout=-3
                    )
                    say(await pinging.wait())
                elif word == "set":
                    await stack.sysctl("net.ipv4.ip_forward", 1)
                    await stack.remove_interface("vde0")
                    await stack.sysctl("net.ipv4.ip_forward", 0)
                    await stack.add_interface("bridge://lan", ip="10.0.0.77/24")
                    say(*[each.device for each in stack.interfaces.values()])
        if "old" in sys.argv:
            await old.aclose()

    if "uvloop" in sys.argv:
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
"""


class Program:
    """Another process, talked to by lines."""

    def __init__(self, number: int, *words: str) -> None:
        self.number = number
        text = textwrap.dedent(PROGRAM)
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", text, str(number), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    async def hear(self) -> Any:
        line = await asyncio.to_thread(self._line)
        if not line:
            raise AssertionError(await asyncio.to_thread(self.popen.communicate))
        return json.loads(line)

    async def ready(self) -> tuple[str, list[int]]:
        word, device, keepers = await self.hear()
        assert word == "ready"
        return device, [pid for pid in keepers if pid is not None]

    async def tell(self, *words: object) -> Any:
        assert self.popen.stdin is not None
        print(*words, file=self.popen.stdin, flush=True)
        return await self.hear()

    async def ask(self, other: Program | int) -> None:
        number = other if isinstance(other, int) else other.number
        for host in f"10.0.0.{number}", f"fd00::{number}":
            assert await self.tell("ask", host) == [str(number)]

    async def end(self) -> None:
        out, err = await asyncio.to_thread(self.popen.communicate)
        assert (out, err, self.popen.returncode) == ("", "", 0)

    async def kill(self) -> None:
        self.popen.kill()
        await asyncio.to_thread(self.popen.communicate)


@contextmanager
def programs() -> Iterator[Callable[..., Program]]:
    """Start programs; all are ended with the block, and are no more then."""
    with ExitStack() as undo:

        def start(number: int, *words: str) -> Program:
            program = Program(number, *words)
            undo.callback(program.popen.communicate)
            undo.callback(program.popen.kill)
            return program

        yield start


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_of_others(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.mark.parametrize("count", [2, 8])
async def test_all_at_the_same_time(count: int, loop_of_others: str) -> None:
    """Whoever is first, there is one bridge, and in the end there is none."""
    with programs() as start:
        running = [start(number, loop_of_others) for number in range(1, count + 1)]
        for each in running:
            device, keepers = await each.ready()
            assert device == "veth"
            assert len(keepers) == 1
        for one, other in zip(running, [*running[1:], running[0]], strict=True):
            await one.ask(other)
        assert sorted(os.listdir(runtime())) == ["lan.bridge", "user-namespace"]
        assert (runtime() / "lan.bridge").stat().st_mode & 0o777 == 0o600
        await asyncio.gather(*(each.end() for each in running))
    await until(lambda: not runtime().exists())


async def test_the_founder_is_killed(
    loop_of_others: str, ask: Callable[..., Awaitable[bytes]]
) -> None:
    """The others go on, and who comes later joins them."""
    with programs() as start:
        founder = start(1, loop_of_others)
        _, [keeper] = await founder.ready()
        second, third = start(2, loop_of_others), start(3, loop_of_others)
        for each in second, third:
            await each.ready()
            await each.ask(founder)
        await founder.kill()
        await until(lambda: not is_there(keeper))
        await second.ask(third)
        again = start(1, loop_of_others)
        await again.ready()
        for each in second, third:
            await again.ask(each)
        async with aioioth.Stack("bridge://lan", ip="10.0.0.9/24") as ours:
            for number in b"1", b"2", b"3":
                assert await ask(ours, f"10.0.0.{number.decode()}", b"") == number
        for each in second, third, again:
            await each.end()
    await until(lambda: not runtime().exists())


@pytest.mark.parametrize("keepers_too", [False, True])
async def test_all_are_killed(keepers_too: bool) -> None:
    """Nothing is left behind; but if all keepers are dead, too, the next one has it."""
    with programs() as start:
        both = [start(1), start(2)]
        keepers = [(await each.ready())[1][0] for each in both]
        for each in both:
            each.popen.send_signal(signal.SIGSTOP)
        if keepers_too:
            for pid in keepers:
                os.kill(pid, signal.SIGKILL)
        for each in both:
            await each.kill()
        await until(lambda: not any(map(is_there, keepers)))
        if keepers_too:
            assert runtime().exists()
            third = start(3)
            await third.ready()
            await third.end()
    await until(lambda: not runtime().exists())


async def test_a_program_with_stacks_of_its_own(loop_of_others: str) -> None:
    """It has two keepers then, and loses nothing in speed."""
    with programs() as start:
        founder = start(1, loop_of_others)
        await founder.ready()
        late = start(2, loop_of_others, "old")
        device, keepers = await late.ready()
        assert device == "veth"
        assert len(keepers) == 2
        spaces = {os.readlink(f"/proc/{pid}/ns/user") for pid in keepers}
        assert len(spaces) == 2
        await late.ask(founder)
        await founder.ask(late)
        # The old stack is in another user namespace: the kernel does not join the two.
        device, vnl, attached = await late.tell("add", "10.0.0.3/24")
        assert device in {"tap", "packet"}
        assert (vnl, attached) == ("bridge://lan", True)
        for host in "10.0.0.1", "10.0.0.2":
            assert await late.tell("ping", host) == [0]
        await founder.end()
        assert await late.tell("ping", "10.0.0.2") == [0]
        await late.end()
        assert not any(map(is_there, keepers))
    await until(lambda: not runtime().exists())


async def test_a_stack_goes_on_when_it_leaves_the_bridge() -> None:
    with programs() as start:
        founder, late = start(1), start(2, "old")
        await founder.ready()
        await late.ready()
        for each in late, founder:
            assert await each.tell("set") == ["veth"]
        await late.end()
        await founder.end()


async def test_bridges_of_another_program(echo: Any, ask: Any) -> None:
    """All of one stack, though we had stacks before we met."""
    with programs() as start:
        founder = start(1)
        await founder.ready()
        async with (
            aioioth.Stack(),
            aioioth.Stack(
                "bridge://lan",
                "bridge://other",
                "bridge://mine[private]",
                ip={
                    "vde0": "10.0.0.2/24",
                    "vde1": "10.1.0.2/24",
                    "vde2": "10.2.0.2/24",
                },
            ) as stack,
            aioioth.Stack("bridge://other", ip="10.1.0.3/24") as other,
            aioioth.Stack("bridge://mine[private]", ip="10.2.0.3/24") as mine,
            await other.start_server(echo, None, 7),
            await mine.start_server(echo, None, 7),
        ):
            assert await ask(stack, "10.0.0.1", b"") == b"1"
            assert await ask(stack, "10.1.0.3", b"other") == b"other"
            assert await ask(stack, "10.2.0.3", b"mine") == b"mine"
            devices = [each.device for each in stack.interfaces.values()]
            assert devices[:2] == ["veth", "veth"]
        await founder.end()


async def test_a_founder_that_is_stopped() -> None:
    """The keeper answers for it, whatever the program does."""
    with programs() as start:
        founder = start(1)
        await founder.ready()
        founder.popen.send_signal(signal.SIGSTOP)
        second = start(2)
        assert (await second.ready())[0] == "veth"
        founder.popen.send_signal(signal.SIGCONT)
        await second.ask(founder)
        await second.end()
        await founder.end()


async def test_another_directory_is_another_place(tmp_path: Path) -> None:
    """Programs that are to meet have the same XDG_RUNTIME_DIR."""
    with programs() as start, pytest.MonkeyPatch.context() as patch:
        await start(1).ready()
        tmp_path.chmod(0o700)
        patch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
        async with aioioth.Stack("bridge://lan", ip="10.0.0.2/24") as stack:
            assert await stack.run("/bin/ping -q -c1 -W1 10.0.0.1") == 1


async def test_a_directory_that_is_not_private(tmp_path: Path) -> None:
    (tmp_path / "aioioth").mkdir(mode=0o755)
    (tmp_path / "aioioth").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
        with pytest.raises(errors.BrokenTransportError, match="chmod 0700"):
            await aioioth.Stack("bridge://lan").open()
        async with aioioth.Stack("bridge://lan[private]") as stack:
            assert stack.interfaces["vde0"].device == "veth"
