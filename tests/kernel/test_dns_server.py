"""A DNS server on a stack, asked from another one."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

import aioioth
from aioioth.errors import BusyError, ClosedError
from aioioth.hashes import hash_address
from aioioth.names import Hosts
from aioioth.servers._dns import service, tcp
from aioioth.servers.dns import DnsFault, DnsServer, HashZone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STREAM = socket.SOCK_STREAM
MANY = [f"10.1.0.{number}" for number in range(1, 201)]


@asynccontextmanager
async def lan(count: int = 2, **options: Any) -> AsyncIterator[list[aioioth.Stack]]:
    """Stacks 10.0.0.1 and fd00::1, .2 and ::2, ...; the last asks the first."""
    async with AsyncExitStack() as undo:
        yield [
            await undo.enter_async_context(
                aioioth.Stack(
                    "memory://lan",
                    ip=[f"10.0.0.{number}/24", f"fd00::{number}/64"],
                    **(options if number == count else {}),
                )
            )
            for number in range(1, count + 1)
        ]


async def look_up(stack: aioioth.Stack, host: str, **wanted: int) -> list[str]:
    infos = await stack.getaddrinfo(host, 80, type=STREAM, **wanted)
    return [str(info[4][0]) for info in infos]


async def error_of(stack: aioioth.Stack, host: str) -> int | None:
    with pytest.raises(socket.gaierror) as caught:
        await stack.getaddrinfo(host, 80)
    return caught.value.errno


class Client(asyncio.DatagramProtocol):
    """Sends queries over UDP, and sees from where the replies come."""

    def __init__(self) -> None:
        self.replies: asyncio.Queue[tuple[dns.message.Message, str]] = asyncio.Queue()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.replies.put_nowait((dns.message.from_wire(data), addr[0]))

    async def ask(
        self, server: str, name: str, rdtype: str = "A"
    ) -> tuple[dns.message.Message, str]:
        query = dns.message.make_query(name, rdtype)
        self.transport.sendto(query.to_wire(), (server, 53))
        async with asyncio.timeout(20):
            reply, source = await self.replies.get()
        assert query.is_response(reply)
        return reply, source


@asynccontextmanager
async def client_on(stack: aioioth.Stack, local: str) -> AsyncIterator[Client]:
    transport, client = await stack.create_datagram_endpoint(Client, (local, 0))
    try:
        yield client
    finally:
        transport.abort()


async def ask_over_tcp(
    stack: aioioth.Stack, *names: str, server: str = "10.0.0.1"
) -> list[dns.message.Message]:
    """Send all questions at once, and return the answers in their order."""
    reader, writer = await stack.open_connection(server, 53)
    try:
        queries = [dns.message.make_query(name, "A") for name in names]
        for query in queries:
            writer.write(query.to_wire(prepend_length=True))
        writer.write_eof()
        replies = []
        async with asyncio.timeout(20):
            while head := await reader.read(2):
                size = int.from_bytes(head)
                replies.append(dns.message.from_wire(await reader.readexactly(size)))
        return replies
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_names_addresses_and_back() -> None:
    hosts = Hosts({"db.lab": ["10.0.0.5", "fd00::5"], "many.lab": MANY})
    async with lan(dns=["10.0.0.1"], domain="lab") as (far, asks):
        async with DnsServer(far, hosts=hosts) as server:
            assert set(await look_up(asks, "db")) == {"10.0.0.5", "fd00::5"}
            assert await error_of(asks, "web") == socket.EAI_NONAME
            hosts["web.lab"] = "fd00::6"
            assert await look_up(asks, "web") == ["fd00::6"]
            assert await asks.getnameinfo(("fd00::6", 80, 0, 0)) == ("web.lab", "http")
            del server.hosts["web.lab"]
            assert await error_of(asks, "web") == socket.EAI_NONAME
            # Too long for a datagram.
            found = await look_up(asks, "many", family=socket.AF_INET)
            assert set(found) == set(MANY)
            stats = server.stats
            assert stats.queries["PTR"] == 1
            assert stats.answers["NXDOMAIN"] > 0
            assert stats.ignored == stats.forwarded == {}


async def test_over_ipv6_and_from_a_link_local_address() -> None:
    async with lan(dns=["fd00::1"]) as (far, asks):
        async with DnsServer(far, hosts={"db": "10.0.0.5"}):
            assert await look_up(asks, "db") == ["10.0.0.5"]
            async with client_on(asks, "::") as client:
                [link_local] = [
                    each
                    for each in await link_local_addresses(far)
                    if each.startswith("fe80:")
                ]
                server = f"{link_local}%vde0"
                [info] = await asks.getaddrinfo(server, 53, type=socket.SOCK_DGRAM)
                query = dns.message.make_query("db", "A")
                client.transport.sendto(query.to_wire(), info[4])
                async with asyncio.timeout(20):
                    reply, source = await client.replies.get()
                assert query.is_response(reply)
                assert source.partition("%")[0] == link_local


async def link_local_addresses(stack: aioioth.Stack) -> list[str]:
    return [
        each.get("address") async for each in await stack.netlink.get_addr(family=10)
    ]


async def test_answers_come_from_where_the_question_went() -> None:
    async with (
        aioioth.Stack(
            "memory://lan",
            ip=["10.0.0.1/24", "10.0.0.11/24", "fd00::1/64", "fd00::11/64"],
        ) as far,
        aioioth.Stack("memory://lan", ip=["10.0.0.2/24", "fd00::2/64"]) as asks,
        DnsServer(far, hosts={"db": "10.0.0.5"}),
    ):
        for local, servers in [
            ("0.0.0.0", ["10.0.0.1", "10.0.0.11"]),
            ("::", ["fd00::1", "fd00::11"]),
        ]:
            async with client_on(asks, local) as client:
                for server in servers:
                    assert (await client.ask(server, "db"))[1] == server


async def test_questions_to_everybody_get_no_answer() -> None:
    async with lan() as (far, asks), DnsServer(far, hosts={"db": "10.0.0.5"}) as server:
        async with client_on(asks, "0.0.0.0") as client:
            sock = client.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            query = dns.message.make_query("db", "A").to_wire()
            client.transport.sendto(query, ("10.0.0.255", 53))
            client.transport.sendto(b"\0" * 11, ("10.0.0.1", 53))
            reply = b"\0\0\x80" + bytes(9)
            client.transport.sendto(reply, ("10.0.0.1", 53))
            await client.ask("10.0.0.1", "db")
            assert client.replies.empty()
            assert server.stats.ignored == {"group": 1, "short": 1, "response": 1}


async def test_some_addresses_only() -> None:
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "10.0.0.3/24"]) as far,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as asks,
        DnsServer(far, address="10.0.0.1", hosts={"who": "10.0.0.1"}),
        DnsServer(far, address=["10.0.0.3"], hosts={"who": "10.0.0.3"}),
    ):
        for address in "10.0.0.1", "10.0.0.3":
            async with client_on(asks, "0.0.0.0") as client:
                reply, source = await client.ask(address, "who")
                assert str(reply.answer[0][0]) == source == address
            [reply] = await ask_over_tcp(asks, "who", server=address)
            assert str(reply.answer[0][0]) == address


async def test_an_address_named_twice() -> None:
    async with lan() as (far, asks):
        twice = ["10.0.0.1", "10.0.0.1"]
        async with DnsServer(far, address=twice, hosts={"a": "10.0.0.5"}):
            assert len(await ask_over_tcp(asks, "a")) == 1


@pytest.mark.parametrize("as_in_python_3_13", [False, True])
async def test_an_address_that_the_stack_does_not_have(
    as_in_python_3_13: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioioth._listening.BIND_ERRORS_NUMBERED", as_in_python_3_13)
    monkeypatch.setattr("aioioth._connecting.BIND_ERRORS_NUMBERED", as_in_python_3_13)
    async with lan() as (far, _):
        with pytest.raises(OSError) as caught:
            await DnsServer(far, address=["10.0.0.1", "10.0.0.99"]).open()
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert far.sockets() == []


async def test_addresses_that_come_later() -> None:
    async with lan() as (far, asks), DnsServer(far, hosts={"a": "10.0.0.5"}):
        for new, local in ("10.0.0.50/24", "0.0.0.0"), ("fd00::50/64", "::"):
            await far.add_address(new, dev="vde0")
            address = new.partition("/")[0]
            async with client_on(asks, local) as client:
                assert (await client.ask(address, "a"))[1] == address


async def test_another_port() -> None:
    async with lan() as (far, asks), DnsServer(far, port=5353, hosts={"a": "10.0.0.5"}):
        async with client_on(asks, "0.0.0.0") as client:
            query = dns.message.make_query("a", "A")
            client.transport.sendto(query.to_wire(), ("10.0.0.1", 5353))
            async with asyncio.timeout(20):
                reply, _ = await client.replies.get()
            assert len(reply.answer) == 1


async def test_open_and_closed() -> None:
    async with lan() as (far, asks):
        server = DnsServer(far, hosts={"a": "10.0.0.5"})
        for _ in range(2):
            async with server:
                with pytest.raises(BusyError):
                    await server.open()
                with pytest.raises(OSError):
                    await DnsServer(far).open()
                assert len(await ask_over_tcp(asks, "a")) == 1
            assert far.sockets() == []
        await server.open()
        await server.aclose()
        await server.aclose()
    with pytest.raises(ClosedError):
        await server.open()


async def test_it_ends_with_its_stack() -> None:
    async with lan() as (far, asks):
        server = await DnsServer(far, forward="10.0.0.99").open()
        async with client_on(asks, "0.0.0.0") as client:
            client.transport.sendto(
                dns.message.make_query("a", "A").to_wire(), ("10.0.0.1", 53)
            )
            while not server.stats.forwarded:
                await asyncio.sleep(0)
        await far.aclose()
        await server.aclose()


async def test_in_the_pump_thread() -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24", pump_thread=True) as far,
        aioioth.Stack(
            "memory://lan", ip="10.0.0.2/24", dns="10.0.0.1", pump_thread=True
        ) as asks,
        DnsServer(far) as server,
    ):
        server.hosts["db"] = "10.0.0.5"
        assert await look_up(asks, "db", family=socket.AF_INET) == ["10.0.0.5"]
        assert server.stats.answers == {"NOERROR": 1}


# TCP


async def test_many_queries_on_one_connection() -> None:
    names = [f"h{number}" for number in range(100)]
    hosts = {name: f"10.1.0.{number}" for number, name in enumerate(names)}
    async with lan() as (far, asks), DnsServer(far, hosts=hosts) as server:
        # Half of them have to wait; more than may at once.
        server.add_fault(DnsFault(delay=0.01, every=2))
        replies = await ask_over_tcp(asks, *names)
        assert {str(each.answer[0].name) for each in replies} == {
            f"{name}." for name in names
        }


async def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_IDLE_SECONDS", 0.05)
    async with lan() as (far, asks), DnsServer(far, hosts={"a": "10.0.0.5"}):
        for beginning in b"", b"\0", b"\0\x20abc":
            reader, writer = await asks.open_connection("10.0.0.1", 53)
            writer.write(beginning)
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


async def test_who_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_IDLE_SECONDS", 0.05)
    many = [f"10.1.{i}.{j}" for i in range(4) for j in range(250)]
    async with lan() as (far, asks), DnsServer(far, hosts={"many": many}) as server:
        sock = asks.socket()
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            await asks.sock_connect(sock, ("10.0.0.1", 53))
            query = dns.message.make_query("many", "A").to_wire(prepend_length=True)
            loop = asyncio.get_running_loop()
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(40):
                    while True:
                        await loop.sock_sendall(sock, query)
        assert server.stats.answers["NOERROR"] > 1


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_CONNECTIONS_OF_ONE", 2)
    async with lan() as (far, asks), DnsServer(far, hosts={"a": "10.0.0.5"}) as server:
        held = [await asks.open_connection("10.0.0.1", 53) for _ in range(3)]
        async with asyncio.timeout(20):
            closed = [asyncio.create_task(reader.read(1)) for reader, _ in held]
            done, _ = await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        assert server.stats.ignored == {"connections": 1}
        for task in closed:
            task.cancel()
        await asyncio.gather(*closed, return_exceptions=True)
        for _, writer in held:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        while True:  # the server sees it a moment later
            with suppress(OSError):
                if len(await ask_over_tcp(asks, "a")) == 1:
                    break


async def test_closed_with_connections_open() -> None:
    async with lan() as (far, asks):
        server = await DnsServer(far, hosts={"a": "10.0.0.5"}).open()
        server.add_fault(DnsFault(delay=1000))
        reader, writer = await asks.open_connection("10.0.0.1", 53)
        query = dns.message.make_query("a", "A").to_wire(prepend_length=True)
        writer.write(query)
        while not server.stats.queries:
            await asyncio.sleep(0)
        await server.aclose()
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                assert await reader.read() == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


# Faults


async def test_faults() -> None:
    async with lan(dns="10.0.0.1") as (far, asks):
        async with DnsServer(far, hosts={"db.lab": "10.0.0.5"}) as server:
            async with client_on(asks, "0.0.0.0") as client:
                refuse = DnsFault("*.lab", type="a", rcode="refused", count=2)
                server.add_fault(refuse)
                assert list(server.faults) == [refuse]
                codes = [
                    (await client.ask("10.0.0.1", "DB.lab"))[0].rcode().name
                    for _ in range(3)
                ]
                assert codes == ["REFUSED", "REFUSED", "NOERROR"]
                assert list(server.faults) == []
                second = DnsFault("db.lab.", rcode="SERVFAIL", every=2)
                server.add_fault(second)
                codes = [
                    (await client.ask("10.0.0.1", "db.lab"))[0].rcode().name
                    for _ in range(4)
                ]
                assert codes == ["NOERROR", "SERVFAIL"] * 2
                server.remove_fault(second)
                server.remove_fault(second)
                server.add_fault(DnsFault(delay=0.01, rcode="SERVFAIL", count=1))
                reply, _ = await client.ask("10.0.0.1", "db.lab")
                assert reply.rcode() == dns.rcode.SERVFAIL
                # Neither another name nor another type.
                server.add_fault(DnsFault("x*", type="AAAA", drop=True))
                await client.ask("10.0.0.1", "db.lab", "AAAA")
                await client.ask("10.0.0.1", "x", "A")
                client.transport.sendto(
                    dns.message.make_query("x", "AAAA").to_wire(), ("10.0.0.1", 53)
                )
                await client.ask("10.0.0.1", "db.lab")
                assert client.replies.empty()
                assert server.stats.ignored == {"fault": 1}


async def test_cut_off_answers_are_fetched_over_tcp() -> None:
    async with lan(dns="10.0.0.1") as (far, asks):
        async with DnsServer(far, hosts={"db": "10.0.0.5"}) as server:
            # What comes over TCP is not about it, and does not count.
            server.add_fault(DnsFault("db", truncate=True, count=2))
            for asked in 2, 4, 5:
                assert await look_up(asks, "db", family=socket.AF_INET) == ["10.0.0.5"]
                assert server.stats.queries == {"A": asked}
            server.add_fault(DnsFault(truncate=True))
            server.add_fault(DnsFault(rcode="REFUSED"))
            [reply] = await ask_over_tcp(asks, "db")
            assert reply.rcode() == dns.rcode.REFUSED


async def test_the_same_type_by_another_name() -> None:
    async with lan() as (far, asks), DnsServer(far, hosts={"db": "fd00::5"}) as server:
        server.add_fault(DnsFault(type="TYPE28", rcode="REFUSED"))
        async with client_on(asks, "0.0.0.0") as client:
            reply, _ = await client.ask("10.0.0.1", "db", "AAAA")
            assert reply.rcode() == dns.rcode.REFUSED


async def test_the_same_fault_again_is_the_youngest() -> None:
    async with lan() as (far, _):
        server = DnsServer(far)
        one, two = DnsFault("a", drop=True), DnsFault("b", drop=True)
        for fault in one, two, one:
            server.add_fault(fault)
        assert server.faults == (two, one)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rcode": "NOSUCH"},
        {"rcode": "BADVERS"},
        {"rcode": 2},
        {"type": "NOSUCH"},
        {"type": 28, "drop": True},
        {"name": None, "drop": True},
        {},
        {"delay": -1},
        {"delay": float("inf")},
        {"every": 0, "drop": True},
        {"count": 0, "drop": True},
    ],
)
def test_wrong_faults(wrong: Any) -> None:
    with pytest.raises(aioioth.errors.ConfigurationError):
        DnsFault(**wrong)


# Forwarding


async def test_others_are_asked_and_remembered() -> None:
    async with lan(3, dns="10.0.0.2") as (far, near, asks):
        async with (
            DnsServer(
                far,
                hosts={"db.far": "10.0.0.5", "many.far": MANY},
                records="www.far CNAME db.far",
                ttl=60,
            ) as other,
            DnsServer(near, hosts={"db.near": "10.0.0.6"}, forward="10.0.0.1") as ours,
        ):
            async with client_on(asks, "0.0.0.0") as client:
                for _ in range(2):
                    reply, _ = await client.ask("10.0.0.2", "www.far")
                    assert [each.rdtype.name for each in reply.answer] == ["CNAME", "A"]
                    assert not reply.flags & dns.flags.AA
                    reply, _ = await client.ask("10.0.0.2", "no.far")
                    assert reply.rcode() == dns.rcode.NXDOMAIN
                    await client.ask("10.0.0.2", "db.near")
                    reply, _ = await client.ask("10.0.0.2", "many.far")
                    assert reply.flags & dns.flags.TC
                # Once each; "many" over UDP, then TCP.
                assert other.stats.queries == {"A": 4}
                assert ours.stats.forwarded == {"questions": 3, "answers": 3}
                ours.forget()
                await client.ask("10.0.0.2", "www.far")
                assert other.stats.queries == {"A": 5}
            found = await look_up(asks, "many.far", family=socket.AF_INET)
            assert set(found) == set(MANY)


async def test_without_a_cache() -> None:
    async with lan(3) as (far, near, asks):
        async with (
            DnsServer(far, hosts={"db": "10.0.0.5"}, ttl=60) as other,
            DnsServer(near, forward="10.0.0.1", cache=False) as ours,
            client_on(asks, "0.0.0.0") as client,
        ):
            for _ in range(3):
                await client.ask("10.0.0.2", "db")
            ours.forget()
            assert other.stats.queries == {"A": 3}


async def test_the_same_question_is_asked_once() -> None:
    async with lan(3) as (far, near, asks):
        async with (
            DnsServer(far, hosts={"db": "10.0.0.5"}) as other,
            DnsServer(near, forward="10.0.0.1", forward_timeout=20) as ours,
            client_on(asks, "0.0.0.0") as client,
        ):
            other.add_fault(DnsFault(delay=0.05))
            for _ in range(30):
                query = dns.message.make_query("db", "A").to_wire()
                client.transport.sendto(query, ("10.0.0.2", 53))
            async with asyncio.timeout(20):
                replies = [await client.replies.get() for _ in range(30)]
            assert all(reply.answer for reply, _ in replies)
            asked = other.stats.queries["A"]
            # What comes after the first answer is asked again: nothing is remembered.
            assert asked == ours.stats.forwarded["questions"] < 30


async def test_from_another_stack() -> None:
    async with (
        aioioth.Stack("memory://outside", ip="192.0.2.1/24") as internet,
        aioioth.Stack("memory://outside", ip="192.0.2.2/24") as foot,
        lan(dns="10.0.0.1") as (near, asks),
        DnsServer(internet, hosts={"www.example": "192.0.2.80"}),
        DnsServer(near, forward="192.0.2.1", forward_on=foot),
    ):
        assert await look_up(asks, "www.example") == ["192.0.2.80"]
        await foot.aclose()
        assert await error_of(asks, "other.example") == socket.EAI_AGAIN


async def test_the_next_one_is_asked() -> None:
    async with lan(4, dns="10.0.0.3") as (silent, good, near, asks):
        async with (
            DnsServer(silent) as first,
            DnsServer(good, hosts={"a": "10.0.0.5", "b": "10.0.0.6"}),
            DnsServer(
                near,
                # Itself; one that says nothing; then a good one.
                forward=["10.0.0.3", "10.0.0.1", "10.0.0.2"],
                forward_timeout=1,
            ) as ours,
        ):
            first.add_fault(DnsFault(drop=True))
            assert await look_up(asks, "a", family=socket.AF_INET) == ["10.0.0.5"]
            counts = ours.stats.forwarded
            assert (counts["questions"], counts["answers"]) == (1, 1)
            assert counts["timeouts"] >= 1
            errors = counts["errors"]
            assert errors >= 1
            # From now on the good one is the first.
            assert await look_up(asks, "b", family=socket.AF_INET) == ["10.0.0.6"]
            assert ours.stats.forwarded["errors"] == errors


async def test_nobody_answers() -> None:
    async with lan(3) as (far, near, asks):
        async with (
            DnsServer(far) as other,
            DnsServer(near, forward="10.0.0.1") as ours,
            client_on(asks, "0.0.0.0") as client,
        ):
            other.add_fault(DnsFault(rcode="SERVFAIL"))
            reply, _ = await client.ask("10.0.0.2", "a")
            assert reply.rcode() == dns.rcode.SERVFAIL
            wanted = {"questions": 1, "failures": 2, "unanswered": 1}
            assert ours.stats.forwarded == wanted


@pytest.mark.parametrize("address", [None, ["0.0.0.0", "::"]], ids=["all", "named"])
async def test_it_never_asks_itself(address: list[str] | None) -> None:
    async with lan() as (near, asks):
        own = ["10.0.0.1", "fd00::1", "127.0.0.1", "::1", "127.0.0.2"]
        async with (
            DnsServer(near, address=address, forward=own) as server,
            client_on(asks, "0.0.0.0") as client,
        ):
            reply, _ = await client.ask("10.0.0.1", "a")
            assert reply.rcode() == dns.rcode.SERVFAIL
            assert server.stats.queries == {"A": 1}
            wanted = {"questions": 1, "errors": 10, "unanswered": 1}
            assert server.stats.forwarded == wanted


async def test_another_server_at_home() -> None:
    async with (
        aioioth.Stack("memory://lan", ip=["10.0.0.1/24", "10.0.0.3/24"]) as far,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24", dns="10.0.0.1") as asks,
        DnsServer(far, address="10.0.0.3", hosts={"db": "10.0.0.5"}),
        DnsServer(far, address="10.0.0.1", forward="10.0.0.3"),
    ):
        assert await look_up(asks, "db", family=socket.AF_INET) == ["10.0.0.5"]


@pytest.mark.parametrize("link_local", [False, True], ids=["global", "link-local"])
async def test_two_that_ask_each_other_come_to_an_end(link_local: bool) -> None:
    async with lan(3) as (one, two, asks):
        addresses = ["10.0.0.1", "10.0.0.2"]
        if link_local:
            addresses = [
                f"{each}%vde0"
                for stack in (one, two)
                for each in await link_local_addresses(stack)
                if each.startswith("fe80:")
            ]
        async with (
            DnsServer(one, forward=addresses[1], forward_timeout=20) as first,
            DnsServer(two, forward=addresses[0], forward_timeout=20) as second,
            client_on(asks, "0.0.0.0") as client,
        ):
            reply, _ = await client.ask("10.0.0.1", "a")
            assert reply.rcode() == dns.rcode.SERVFAIL
            assert first.stats.queries == {"A": 1}
            assert second.stats.queries == {"A": 2}
            assert second.stats.forwarded == {"questions": 2, "unanswered": 2}


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST_WAITING", 2)
    async with lan() as (far, asks), DnsServer(far, hosts={"a": "10.0.0.5"}) as server:
        server.add_fault(DnsFault(delay=1000))
        async with client_on(asks, "0.0.0.0") as client:
            query = dns.message.make_query("a", "A").to_wire()
            for _ in range(5):  # also if all come before anything is done
                client.transport.sendto(query, ("10.0.0.1", 53))
            async with asyncio.timeout(20):
                replies = [await client.replies.get() for _ in range(3)]
            assert {each.rcode() for each, _ in replies} == {dns.rcode.SERVFAIL}
            assert server.stats.queries == {"A": 5}
            assert server.stats.ignored == {"overload": 3}


class Liar(asyncio.DatagramProtocol):
    """Sends first what nobody should believe, each time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.ids: set[int] = set()
        self.ports: set[int] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        self.ids.add(query.id)
        self.ports.add(addr[1])

        def send(to: Any, **changes: Any) -> None:
            text = dns.message.make_response(query).to_text()
            name = str(query.question[0].name)
            text = text.replace(name, changes.get("name", name))
            address = changes.get("address", "192.0.2.66")
            text += f"\n;ANSWER\n{changes.get('name', name)} 60 IN A {address}\n"
            message = dns.message.from_text(text.replace(";ANSWER\n;", ";", 1))
            message.id = changes.get("id", query.id)
            self.transport.sendto(message.to_wire(), to)

        send(addr, id=query.id ^ 1)
        send(addr, name="other.example.")
        self.transport.sendto(data, addr)  # no response
        self.transport.sendto(b"", addr)
        self.transport.sendto(b"\xff" * 50, addr)
        send(addr, address="192.0.2.1")


def cut_off(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query)
    name = query.question[0].name
    reply.answer = [dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.66")]
    reply.flags |= dns.flags.TC
    return reply


async def test_what_is_cut_off_even_over_tcp_is_not_believed() -> None:
    class CutsOff(asyncio.DatagramProtocol):
        transport: Any

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            reply = cut_off(dns.message.from_wire(data))
            self.transport.sendto(reply.to_wire(), addr)

    async def over_tcp(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        size = int.from_bytes(await reader.readexactly(2))
        query = dns.message.from_wire(await reader.readexactly(size))
        writer.write(cut_off(query).to_wire(prepend_length=True))
        writer.close()

    async with lan(3) as (far, near, asks):
        transport, _ = await far.create_datagram_endpoint(CutsOff, ("10.0.0.1", 53))
        listener = await far.start_server(over_tcp, "10.0.0.1", 53)
        async with (
            DnsServer(near, forward="10.0.0.1") as server,
            client_on(asks, "0.0.0.0") as client,
        ):
            reply, _ = await client.ask("10.0.0.2", "a")
            assert reply.rcode() == dns.rcode.SERVFAIL
            assert server.stats.forwarded["errors"] == 2
        listener.close()
        transport.abort()


async def test_what_a_forger_must_guess() -> None:
    async with lan(3) as (far, near, asks):
        transport, liar = await far.create_datagram_endpoint(Liar, ("10.0.0.1", 53))
        async with (
            DnsServer(near, forward="10.0.0.1") as server,
            client_on(asks, "0.0.0.0") as client,
        ):
            for number in range(10):
                reply, _ = await client.ask("10.0.0.2", f"h{number}.example")
                assert [str(each[0]) for each in reply.answer] == ["192.0.2.1"]
            assert server.stats.forwarded == {"questions": 10, "answers": 10}
            assert len(liar.ids) > 5
            assert len(liar.ports) > 5
        transport.abort()


async def test_hash_zones_and_access() -> None:
    async with lan(3, dns="10.0.0.1") as (far, other, asks):
        async with DnsServer(
            far,
            hash_zones={"hash": "fd00::/64", "otip": HashZone("fd00::", period=32)},
            access={"10.0.0.3": {"hash"}},
        ):
            [address] = await look_up(asks, "db.hash", family=socket.AF_INET6)
            assert address == str(hash_address("db.hash", "fd00::"))
            assert await error_of(asks, "db.otip") == socket.EAI_AGAIN
            async with client_on(other, "0.0.0.0") as client:
                reply, _ = await client.ask("10.0.0.1", "db.hash", "AAAA")
                assert reply.rcode() == dns.rcode.REFUSED
