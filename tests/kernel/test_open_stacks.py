"""Many stacks at once: their addresses, their limits, and all of them gone again."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

import aioioth
from aioioth import errors
from aioioth.testing import cancel_everywhere, no_leaks

PATIENCE = 50


async def addresses(stack: aioioth.Stack) -> set[str]:
    """Return what the kernel says, except for what is link-local."""
    found = [each async for each in await stack.netlink.get_addr()]
    return {
        f"{each.get('address')}/{each['prefixlen']}"
        for each in found
        if each["index"] != 1 and not each.get("address").startswith("fe80")
    }


# What they are like


async def test_they_count() -> None:
    async with aioioth.open_stacks(
        3, "bridge://lan", ip=["10.0.0.254/16", "fd00::ffff/64"], name="w", mtu=9000
    ) as stacks:
        assert [stack.name for stack in stacks] == ["w1", "w2", "w3"]
        assert [await addresses(stack) for stack in stacks] == [
            {"10.0.0.254/16", "fd00::ffff/64"},
            {"10.0.0.255/16", "fd00::1:0/64"},
            {"10.0.1.0/16", "fd00::1:1/64"},
        ]
        assert {stack.interfaces["vde0"].mtu for stack in stacks} == {9000}
        assert len({stack.interfaces["vde0"].mac for stack in stacks}) == 3
        assert set(aioioth.stacks()) == set(stacks)
    assert aioioth.stacks() == ()


async def test_several_networks() -> None:
    async with aioioth.open_stacks(
        2,
        "bridge://a",
        "eth1:memory://b",
        ip={"vde0": "10.0.0.1/24", "eth1": ["10.1.0.1/24", "fd01::1/64"]},
        gw="10.0.0.100",
    ) as (one, two):
        assert await addresses(one) == {"10.0.0.1/24", "10.1.0.1/24", "fd01::1/64"}
        assert await addresses(two) == {"10.0.0.2/24", "10.1.0.2/24", "fd01::2/64"}
        for vnl in "vde0", "eth1":
            assert two.interfaces[vnl].attached
        for host in "10.0.0.1", "10.1.0.1", "fd01::1":
            assert await two.run(f"/bin/ping -q -c1 -W5 {host}") == 0


@pytest.mark.parametrize(
    ("ip", "second"),
    [
        (ipaddress.ip_interface("10.0.0.1/24"), {"10.0.0.2/24"}),
        (ipaddress.ip_interface("fd00::1/64"), {"fd00::2/64"}),
        (
            (ipaddress.ip_interface("10.0.0.1/24"), "fd00::1/64"),
            {"10.0.0.2/24", "fd00::2/64"},
        ),
    ],
)
async def test_addresses_in_each_form(ip: Any, second: set[str]) -> None:
    async with aioioth.open_stacks(2, "bridge://lan", ip=ip) as (_, two):
        assert await addresses(two) == second


async def test_without_addresses() -> None:
    async with aioioth.open_stacks(2, "bridge://lan") as stacks:
        assert [await addresses(stack) for stack in stacks] == [set(), set()]
    async with aioioth.open_stacks(2) as stacks:
        assert [dict(stack.interfaces) for stack in stacks] == [{}, {}]


async def test_none_at_all() -> None:
    async with aioioth.open_stacks(0, "bridge://lan", ip="10.0.0.1/24") as stacks:
        assert stacks == []


async def test_one_may_be_closed_earlier() -> None:
    async with aioioth.open_stacks(3, "bridge://lan") as stacks:
        await stacks[1].aclose()
        stacks[2].close()
        assert aioioth.stacks() == (stacks[0],)
        stacks.clear()  # the list is the user's
    assert aioioth.stacks() == ()


async def test_only_once() -> None:
    many = aioioth.open_stacks(2)
    async with many:
        with pytest.raises(errors.BusyError):
            await many.__aenter__()
    assert aioioth.stacks() == ()
    with pytest.raises(errors.ClosedError):
        await many.__aenter__()


# What cannot be


@pytest.mark.parametrize(
    ("count", "ip", "room"),
    [
        (255, "10.0.0.1/24", 254),
        (2, "10.0.0.254/24", 1),
        (1, "10.0.0.255/24", 0),
        (3, "10.0.0.0/31", 2),
        (2, "10.0.0.1/32", 1),
        (2, "fd00::ffff/112", 1),
        (65537, "fd00::/112", 65536),
        (1 << 70, "fd00::1/64", (1 << 64) - 1),
    ],
)
def test_more_than_the_network_has(count: int, ip: str, room: int) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"room for {room} stacks"):
        aioioth.open_stacks(count, "bridge://lan", ip=ip)
    with pytest.raises(errors.ConfigurationError, match=f"room for {room} stacks"):
        aioioth.open_stacks(count, "bridge://lan", ip={"vde0": ["fd09::/48", ip]})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"mac": "02:00:00:00:00:01"}, "mac: two stacks with the same MAC"),
        ({"mac": {"vde0": "02:00:00:00:00:01"}}, "mac: two stacks"),
        ({"fqdn": "web.lan"}, "fqdn: two stacks"),
        ({"ip": "10.0.0.1"}, "10.0.0.1"),
        ({"ip": {"nic0": "10.0.0.1/24"}}, "nic0"),
        ({"mtu": 99999}, "99999"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=reason):
        aioioth.open_stacks(2, "bridge://lan", **arguments)


def test_less_than_none() -> None:
    with pytest.raises(errors.ConfigurationError, match="-1 stacks"):
        aioioth.open_stacks(-1)


# What may go wrong


class Breaks:
    """A network with room for some."""

    def __init__(self, room: int) -> None:
        self.switch = aioioth.Switch()
        self.room = room

    async def open(self, label: str) -> Any:
        await asyncio.sleep(0)
        self.room -= 1
        if self.room < 0:
            vnl = "breaks://"
            raise errors.BrokenTransportError(vnl, "no room")
        return await self.switch.open(label)


async def test_one_of_many_fails() -> None:
    """Then there are none."""
    network = Breaks(20)
    with pytest.raises(errors.BrokenTransportError, match="no room"):
        async with aioioth.open_stacks(40, network, "bridge://lan", ip="10.0.0.1/24"):
            pytest.fail("opened")
    assert aioioth.stacks() == ()
    assert network.switch.ports == ()


async def test_the_block_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        async with aioioth.open_stacks(20, "bridge://lan"):
            raise ZeroDivisionError
    assert aioioth.stacks() == ()


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled(times: int) -> None:
    async with aioioth.Stack("bridge://lan"):  # the manager and the bridge stay

        async def whole_life() -> None:
            async with aioioth.open_stacks(20, "bridge://lan", ip="10.0.0.1/24"):
                await asyncio.sleep(0)

        assert await cancel_everywhere(whole_life, times=times) > 2
        assert len(aioioth.stacks()) == 1


def test_under_trio() -> None:
    async def main() -> None:
        async with aioioth.open_stacks(20, "bridge://lan", ip="10.0.0.1/24") as stacks:
            assert len(aioioth.stacks()) == 20
            assert await stacks[19].run("/bin/ping -q -c1 -W5 10.0.0.1") == 0
        assert aioioth.stacks() == ()

    with no_leaks():
        trio.run(main)


LIMITED = """
    import asyncio, os, resource, sys, aioioth

    class Opened(aioioth.Stack):
        async def __aenter__(self):
            return self

    async def when_there_is_room():
        while True:
            try:
                return await Opened("bridge://lan", ip="10.0.0.2/16").open()
            except aioioth.errors.MissingPrivilegeError:
                await asyncio.sleep(0.01)

    async def main():
        async with aioioth.Stack("bridge://lan", ip="10.0.0.1/16") as first:
            before = sorted(os.listdir("/proc/self/fd"))
            try:
                async with aioioth.open_stacks(300, "bridge://lan", ip="10.0.1.1/16"):
                    print("opened")
            except OSError as error:
                print(error.errno, error)
            # The kernel counts a namespace until it has cleaned it up.
            two = await when_there_is_room()
            async with two:
                pinging = await two.create_subprocess_exec(
                    "/bin/ping", "-q", "-c1", "-W5", "10.0.0.1", stdout=-3
                )
                print(await pinging.wait())
                del pinging
            for _ in range(1000):
                if len(os.listdir("/proc/self/fd")) <= len(before):
                    break
                await asyncio.sleep(0.005)
            print(len(os.listdir("/proc/self/fd")) - len(before))

    LIMIT
    if sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
"""


def limited(limit: str, loop: str, *before: str) -> list[str]:
    program = textwrap.dedent(LIMITED).replace("LIMIT", limit)
    done = subprocess.run(
        [*before, sys.executable, "-W", "error", "-c", program, loop],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_descriptors_left(loop: str) -> None:
    """The error says which limit it is, and all is as before."""
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))"
    error, pinged, more = limited(limit, loop)
    assert error.startswith("24 [Errno 24] Too many open files")
    assert "ulimit -n" in error
    assert "100" in error
    assert "200" in error
    assert (pinged, more) == ("0", "0")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_namespaces_left(loop: str) -> None:
    """The error says which sysctl it is, and all is as before."""
    # In a user namespace whose limit is ours to lower.
    limit = "echo 20 > /proc/sys/user/max_net_namespaces"
    before = ["unshare", "-U", "-r", "sh", "-c", f'{limit} && exec "$@"', "sh"]
    if shutil.which("unshare") is None:
        pytest.skip("not installed: unshare")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("no user namespace in a user namespace")
    error, pinged, more = limited("", loop, *before)
    assert "user.max_net_namespaces" in error
    assert "sudo sysctl" in error
    assert (pinged, more) == ("0", "0")


# Many


async def test_all_reach_the_first() -> None:
    async def answer(reader: Any, writer: Any) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode())
        writer.close()

    async with (
        asyncio.timeout(PATIENCE),
        aioioth.open_stacks(200, "bridge://lan", ip="10.0.0.1/16") as stacks,
        await stacks[0].start_server(answer, None, 7, backlog=200),
    ):

        async def ask(stack: aioioth.Stack) -> str:
            reader, writer = await stack.open_connection("10.0.0.1", 7)
            answered = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answered.decode()

        asked = [await ask(stack) for stack in stacks]
        assert asked == [f"10.0.0.{number}" for number in range(1, 201)]
        assert len(set(await asyncio.gather(*map(ask, stacks)))) == 200


@pytest.mark.parametrize("vnl", ["bridge://lan", "memory://lan"])
async def test_others_have_their_turn(vnl: str) -> None:
    """Between any two turns of the loop only a few are opened or closed."""
    steps = []
    count = 100

    async def look() -> None:
        while True:
            steps.append(len(aioioth.stacks()))
            await asyncio.sleep(0)

    many = aioioth.open_stacks(count, vnl, ip="10.0.0.1/24")
    looking = asyncio.create_task(look())
    async with many:
        pass
    looking.cancel()
    await asyncio.wait([looking])
    changes = [abs(after - before) for before, after in pairwise(steps)]
    assert max(steps) == count
    assert max(changes) <= 16


def test_what_a_program_leaves() -> None:
    """A thousand descriptors less, and no process more."""
    program = """
        import asyncio, os, aioioth
        async def main():
            async with aioioth.open_stacks(50, "bridge://lan", ip="10.0.0.1/24"):
                os.kill(os.getpid(), 9)
        asyncio.run(main())
    """
    with no_leaks():
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], timeout=PATIENCE
        )
        assert done.returncode == -9
    assert Path(os.environ["XDG_RUNTIME_DIR"]).is_dir()
