"""Needs dnsmasq: a real DNS server, running in a stack, asked from another one."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

import aioioth
from tests.interop.programs import name_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MANY = [f"10.1.0.{number}" for number in range(1, 201)]
RECORDS = [
    "--host-record=db.example,10.0.0.5,fd00::5",
    "--host-record=four.example,10.0.0.6",
    "--cname=www.example,db.example",
    *(f"--host-record=many.example,{address}" for address in MANY),
    "--local=/example/",
]


@pytest.fixture
async def stack() -> AsyncIterator[aioioth.Stack]:
    async with (
        aioioth.Stack("memory://dns", ip="10.0.0.1/24") as far,
        name_server(far, "10.0.0.1", *RECORDS),
        aioioth.Stack(
            "memory://dns",
            ip=["10.0.0.9/24", "fd00::9/64"],
            dns="10.0.0.1",
            domain="example",
        ) as asks,
    ):
        yield asks


async def look_up(stack: aioioth.Stack, host: str, **wanted: int) -> list[str]:
    infos = await stack.getaddrinfo(host, 80, type=socket.SOCK_STREAM, **wanted)
    return [str(info[4][0]) for info in infos]


async def test_names(stack: aioioth.Stack) -> None:
    assert await look_up(stack, "db") == ["fd00::5", "10.0.0.5"]
    assert await look_up(stack, "db.example.") == ["fd00::5", "10.0.0.5"]
    assert await look_up(stack, "four", flags=socket.AI_ADDRCONFIG) == ["10.0.0.6"]
    [info] = await stack.getaddrinfo(
        "www",
        80,
        family=socket.AF_INET,
        type=socket.SOCK_STREAM,
        flags=socket.AI_CANONNAME,
    )
    assert info[3:] == ("db.example", ("10.0.0.5", 80))


async def test_names_that_are_not_there(stack: aioioth.Stack) -> None:
    for host, family, code in [
        ("no.example", 0, socket.EAI_NONAME),
        ("four.example", socket.AF_INET6, socket.EAI_NODATA),
        ("elsewhere.org", 0, socket.EAI_AGAIN),  # REFUSED: dnsmasq asks nobody
    ]:
        with pytest.raises(socket.gaierror) as caught:
            await look_up(stack, host, family=family)
        assert caught.value.errno == code


async def test_an_answer_that_needs_tcp(stack: aioioth.Stack) -> None:
    assert set(await look_up(stack, "many", family=socket.AF_INET)) == set(MANY)


async def test_back(stack: aioioth.Stack) -> None:
    assert await stack.getnameinfo(("10.0.0.5", 80)) == ("db.example", "http")
    assert await stack.getnameinfo(("fd00::5", 80, 0, 0)) == ("db.example", "http")


async def test_in_a_thread(stack: aioioth.Stack) -> None:
    blocking = partial(stack.resolver.getaddrinfo_blocking, type=socket.SOCK_DGRAM)
    infos = await asyncio.to_thread(blocking, "four", 80)
    assert [info[4] for info in infos] == [("10.0.0.6", 80)]


async def test_a_program_asks_the_same_server(stack: aioioth.Stack) -> None:
    program = await stack.create_subprocess_exec(
        "getent", "ahostsv4", "db", stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await program.communicate()
    assert b"10.0.0.5" in printed.split()
