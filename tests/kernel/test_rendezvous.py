"""Processes meet for real namespaces: racing, killed, stopped, forked."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.children import is_there

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., "Program"]

PROGRAM = """
    import asyncio, json, os, sys, time
    from aioioth import _rendezvous
    from aioioth._fork import forget_in_children
    from aioioth._keeper import messages
    from aioioth._keeper.client import Channel, Keeper

    async def at(point):
        # The test may want us to stay here.
        if point in stops:
            say(point)
            await asyncio.sleep(3600)
        if "fork " + point in stops:
            say(fork())

    def fork():
        if (pid := os.fork()) == 0:
            while True:
                time.sleep(3600)
        return pid

    async def make():
        await at("make")
        user = await channel.ask(messages.USER_NAMESPACE, b"", [], wanted=0)
        return user + await channel.ask(
            messages.NETWORK_NAMESPACE, b"", [], wanted=1
        )

    async def introduce(descriptors, body):
        await at("introduce")
        asking = asyncio.create_task(
            channel.ask(messages.MEETING, body, descriptors, wanted=0)
        )
        await asyncio.sleep(0)  # it is under way
        await at("introduced")
        await asking

    def say(*words):
        print(json.dumps(words), flush=True)

    def found(met):
        status = [os.fstat(each) for each in met.descriptors]
        return met.founded, [(each.st_dev, each.st_ino) for each in status]

    stops = set()
    tasks = []

    async def join_again():
        global met
        old, met = met, await _rendezvous.join(
            met.name, make, introduce, have=met.descriptors
        )
        old.close()
        say("again", *found(met))

    async def main():
        global keeper, channel, met
        keeper = Keeper()
        keeper.hold()
        channel = Channel(keeper)
        forget_in_children(keeper)
        forget_in_children(channel)
        for user in await channel.ask(messages.USER_NAMESPACE, b"", [], wanted=0):
            keeper.remember(user)
        say(keeper.pid)
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, _, rest = line.strip().partition(" ")
            if word == "join":
                try:
                    met = await _rendezvous.join(rest, make, introduce)
                except OSError as error:
                    say(type(error).__name__, str(error))
                else:
                    say("joined", *found(met))
            elif word == "leave":
                met.close()
                say("left")
            elif word == "watch":
                loop = asyncio.get_running_loop()
                met.on_lost(lambda: tasks.append(loop.create_task(join_again())))
                say("watching")
            elif word == "stop":
                stops.add(rest)
                say("will stop")
            elif word == "fork":
                say(fork())
            elif word == "patience":
                _rendezvous._PATIENCE_SECONDS = float(rest)
                say("patient")
        channel.close()
        keeper.release()

    if sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Program:
    """A process with a keeper, told what to do by lines."""

    def __init__(self, loop: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.popen.pid
        self._keeper = 0

    @property
    def keeper(self) -> int:
        if not self._keeper:
            [self._keeper] = self.hear()
        return self._keeper

    def say(self, text: str) -> None:
        assert self.keeper
        assert self.popen.stdin is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def hear(self) -> Any:
        assert self.popen.stdout is not None
        return json.loads(self.popen.stdout.readline())

    def ask(self, text: str) -> Any:
        self.say(text)
        return self.hear()

    def join(self, *, founds: bool) -> Any:
        word, founded, namespaces = self.ask("join lan")
        assert word == "joined"
        assert founded is founds
        assert namespaces
        return namespaces

    def kill(self, *, keeper: bool = True) -> None:
        """Kill the program and its keeper so that neither can do anything."""
        victims = [self.pid, self.keeper] if keeper else [self.pid]
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self.popen.wait()
        until(lambda: not any(map(is_there, victims)))

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        self.popen.stdout.close()
        if self._keeper:
            until(lambda: not is_there(self._keeper))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "aioioth"


@pytest.fixture
def start(names: Path) -> Iterator[Start]:
    """Start programs, on either loop in turn."""
    with ExitStack() as undo:
        count = 0

        def one() -> Program:
            nonlocal count
            count += 1
            program = Program("uvloop" if count % 2 else "asyncio")
            undo.callback(program.end)
            return program

        yield one


@pytest.fixture
def swept(names: Path) -> Iterator[None]:
    """Nothing is left when all programs have ended."""
    yield
    until(lambda: not names.exists())


pytestmark = pytest.mark.usefixtures("swept")


@pytest.mark.parametrize("count", [2, 20])
def test_all_who_race_get_the_same(start: Start, names: Path, count: int) -> None:
    programs = [start() for _ in range(count)]
    for _ in range(3):
        for each in programs:
            assert each.keeper  # is ready
        for each in programs:
            each.say("join lan")
        heard = [each.hear() for each in programs]
        assert {word for word, *_ in heard} == {"joined"}
        assert sum(founded for _, founded, _ in heard) == 1
        assert len({str(namespaces) for *_, namespaces in heard}) == 1
        for each in programs:
            each.say("leave")
        assert [each.hear() for each in programs] == [["left"]] * count
        until(lambda: not names.exists())


def test_the_name_outlives_its_members_one_after_another(
    start: Start, names: Path
) -> None:
    first = start()
    found = first.join(founds=True)
    assert stat.S_IMODE(os.lstat(names / "lan").st_mode) == 0o600
    members = [first]
    for way in ("both", "program", "keeper", "leave", "both"):
        other = start()
        assert other.join(founds=False) == found
        members.append(other)
        going = members.pop(0)
        if way == "both":
            going.kill()
        elif way == "program":
            going.kill(keeper=False)
        elif way == "keeper":
            os.kill(going.keeper, signal.SIGKILL)
        else:
            assert going.ask("leave") == ["left"]
    [last] = members
    assert names.exists()
    last.kill(keeper=False)
    until(lambda: not names.exists())  # the keeper alone saw to it


def test_all_killed_at_once(start: Start, names: Path) -> None:
    programs = [start() for _ in range(3)]
    old = programs[0].join(founds=True)
    for each in programs[1:]:
        assert each.join(founds=False) == old
    pids = [pid for each in programs for pid in (each.pid, each.keeper)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for each in programs:
        each.kill()
    assert (names / "lan").exists()  # nobody is left who could take it away

    newcomer = start()
    newcomer.join(founds=True)
    assert newcomer.ask("leave") == ["left"]
    until(lambda: not names.exists())


@pytest.mark.parametrize("point", ["make", "introduce", "introduced"])
@pytest.mark.parametrize("keeper", [True, False])
def test_killed_while_it_founds(start: Start, point: str, keeper: bool) -> None:
    doomed, waiting = start(), start()
    doomed.ask(f"stop {point}")
    doomed.say("join lan")
    assert doomed.hear() == [point]
    waiting.say("join lan")  # behind the lock
    doomed.kill(keeper=keeper)
    assert waiting.hear()[0] == "joined"
    assert waiting.ask("leave") == ["left"]


@pytest.mark.parametrize("point", ["introduce", "introduced"])
def test_killed_while_it_joins(start: Start, point: str) -> None:
    first, doomed = start(), start()
    found = first.join(founds=True)
    doomed.ask(f"stop {point}")
    doomed.say("join lan")
    assert doomed.hear() == [point]
    doomed.kill()
    assert first.ask("leave") == ["left"]
    assert start().join(founds=True) != found


def test_a_new_keeper_takes_over(start: Start) -> None:
    one, other = start(), start()
    found = one.join(founds=True)
    assert one.ask("watch") == ["watching"]
    os.kill(one.keeper, signal.SIGKILL)
    assert one.hear() == ["again", True, found]
    assert other.join(founds=False) == found
    assert other.ask("watch") == ["watching"]
    os.kill(other.keeper, signal.SIGKILL)
    assert other.hear() == ["again", False, found]
    one.kill(keeper=False)
    assert start().join(founds=False) == found


def test_a_stopped_program_holds_nobody_up(start: Start) -> None:
    stopped = start()
    found = stopped.join(founds=True)
    os.kill(stopped.pid, signal.SIGSTOP)
    other = start()
    assert other.join(founds=False) == found
    assert other.ask("leave") == ["left"]


def test_a_stopped_keeper_is_named(start: Start) -> None:
    stopped, other, third = start(), start(), start()
    found = stopped.join(founds=True)
    # Who has answered last is who is named.
    assert other.join(founds=False) == found
    os.kill(stopped.keeper, signal.SIGSTOP)
    assert third.join(founds=False) == found  # the other one answers
    third.kill()
    other.say("leave")
    assert other.hear() == ["left"]

    fourth = start()
    assert fourth.ask("patience 0.3") == ["patient"]
    word, reason = fourth.ask("join lan")
    assert word == "HandshakeTimeoutError"
    assert "is it stopped? Continue it with 'kill -CONT " in reason
    named = int(reason.split("kill -CONT ")[1].split("'")[0])
    assert named in {stopped.keeper, other.keeper}

    os.kill(stopped.keeper, signal.SIGCONT)
    assert fourth.ask("patience 20") == ["patient"]
    assert fourth.join(founds=False) == found


def test_a_forked_child_holds_nothing(start: Start, names: Path) -> None:
    program = start()
    for point in ("make", "introduce"):
        program.ask(f"stop fork {point}")
    program.say("join lan")
    children = [program.hear()[0], program.hear()[0]]
    assert program.hear()[:2] == ["joined", True]
    children += program.ask("fork")
    assert program.ask("leave") == ["left"]
    until(lambda: not names.exists())
    for pid in children:
        assert is_there(pid)
        os.kill(pid, signal.SIGKILL)


def test_a_forked_child_does_not_keep_the_lock(start: Start) -> None:
    doomed, waiting = start(), start()
    doomed.ask("stop fork make")
    doomed.ask("stop introduce")
    [child] = doomed.ask("join lan")
    assert doomed.hear() == ["introduce"]
    doomed.kill()
    waiting.join(founds=True)
    assert is_there(child)
    os.kill(child, signal.SIGKILL)


def test_killed_at_any_time(start: Start, names: Path) -> None:
    chance = random.Random(1)
    steady = start()
    found = steady.join(founds=True)
    for _ in range(10):
        doomed = start()
        assert doomed.keeper
        doomed.say("join lan")
        time.sleep(chance.random() * 0.01)
        doomed.kill(keeper=chance.random() < 0.5)
    other = start()
    assert other.join(founds=False) == found
    assert other.ask("leave") == ["left"]
    assert steady.ask("leave") == ["left"]
    until(lambda: not names.exists())
