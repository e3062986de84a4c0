"""Names on real stacks, with DNS servers of ours that do what good ones never do."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

import aioioth
from aioioth import _dns
from aioioth.names import Hosts
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Script = Callable[[dns.message.Message], Any]

V4, V6 = socket.AF_INET, socket.AF_INET6
DGRAM = socket.SOCK_DGRAM


def answer(
    query: dns.message.Message,
    *records: str,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    soa: int | None = 60,
) -> dns.message.Message:
    """Answer with those records that fit; SOA says how long there are none."""
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    [question] = query.question
    for record in records:
        name, ttl, kind, value = record.split(maxsplit=3)
        if kind in {"CNAME", dns.rdatatype.to_text(question.rdtype)}:
            reply.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, value))
    if soa is not None:
        text = f"ns. root. 1 1 1 1 {soa}"
        reply.authority.append(dns.rrset.from_text(".", soa, "IN", "SOA", text))
    return reply


class Server(asyncio.DatagramProtocol):
    """Answers UDP by one script and TCP by another; remembers what it was asked.

    A script returns a message, bytes, several of them in a list, or None.
    """

    def __init__(self, script: Script, tcp: Script | None = None) -> None:
        self.script, self.tcp = script, tcp
        self.asked: list[str] = []
        self.queries: list[dns.message.Message] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def _replies(self, script: Script, data: bytes, kind: str) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.queries.append(query)
        [question] = query.question
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{kind} {question.name} {rdtype}")
        replies = script(query)
        if not isinstance(replies, list):
            replies = [] if replies is None else [replies]
        return [
            each if isinstance(each, bytes) else each.to_wire(max_size=65535)
            for each in replies
        ]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for reply in self._replies(self.script, data, "udp"):
            self.transport.sendto(reply, addr)

    async def serve_tcp(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            data = await reader.readexactly(size)
            assert self.tcp is not None
            for reply in self._replies(self.tcp, data, "tcp"):
                writer.write(len(reply).to_bytes(2, "big") + reply)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client was cancelled
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    stack: aioioth.Stack, address: str, server: Server
) -> AsyncIterator[Server]:
    [info] = await stack.getaddrinfo(address, 53, type=DGRAM)
    sock = stack.socket(*info[:3])
    sock.bind(info[4])
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, sock=sock)
    async with AsyncExitStack() as undo:
        undo.callback(transport.abort)
        if server.tcp is not None:
            await undo.enter_async_context(
                await stack.start_server(server.serve_tcp, address, 53)
            )
        yield server


@asynccontextmanager
async def client_of(*servers: Server, **options: Any) -> AsyncIterator[aioioth.Stack]:
    """A stack that asks these servers, each on an address of its own."""
    addresses = [f"10.0.0.{number}" for number in range(1, 1 + len(servers))]
    async with (
        aioioth.Stack("memory://dns", ip=[f"{each}/24" for each in addresses]) as far,
        aioioth.Stack(
            "memory://dns", ip=["10.0.0.9/24", "fd00::9/64"], dns=addresses, **options
        ) as stack,
        AsyncExitStack() as undo,
    ):
        for address, server in zip(addresses, servers, strict=True):
            await undo.enter_async_context(serving(far, address, server))
        yield stack


async def look_up(stack: aioioth.Stack, host: str, **wanted: int) -> list[str]:
    infos = await stack.getaddrinfo(host, 80, type=socket.SOCK_STREAM, **wanted)
    return [str(info[4][0]) for info in infos]


async def refused(stack: aioioth.Stack, host: str, **wanted: int) -> socket.gaierror:
    with pytest.raises(socket.gaierror) as caught:
        await look_up(stack, host, **wanted)
    return caught.value


def zone(*records: str, **options: Any) -> Script:
    """Answer by a list of records; NXDOMAIN for names without any."""

    def script(query: dns.message.Message) -> dns.message.Message:
        name = query.question[0].name.to_text().lower()
        own = [record for record in records if record.split()[0] == name]
        if not own:
            return answer(query, rcode=dns.rcode.NXDOMAIN, **options)
        # With an alias comes all that it may lead to.
        return answer(query, *(records if "CNAME" in own[0] else own), **options)

    return script


DB = "db.example. 60 A 10.0.0.5"
DB6 = "db.example. 60 AAAA fd00::5"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed at once; for tests in which nobody answers in time."""
    monkeypatch.setattr(_dns, "TRY_SECONDS", 0.1)


# The stack's own table


async def test_hosts_are_live_and_shared() -> None:
    hosts = Hosts({"db": "10.0.0.5"})
    async with aioioth.Stack(hosts=hosts) as one, aioioth.Stack(hosts=hosts) as two:
        assert one.hosts is hosts
        assert await look_up(one, "DB.") == ["10.0.0.5"]
        hosts["web"] = ["10.0.0.6", "fd00::6"]
        assert await look_up(two, "web", family=V6) == ["fd00::6"]
        del hosts["db"]
        assert (await refused(two, "db")).errno == socket.EAI_NONAME


async def test_what_is_not_there_is_said_to_be_so() -> None:
    async with aioioth.Stack(hosts={"db": "10.0.0.5"}) as stack:
        error = await refused(stack, "example.com")
        assert error.errno == socket.EAI_NONAME
        assert str(error).endswith(
            "'example.com' is not in the stack's hosts, and the stack has no DNS "
            "servers (dns=...)"
        )
        assert (await refused(stack, "db", family=V6)).errno == socket.EAI_NODATA


async def test_a_name_is_connected_to(echo: Any) -> None:
    async with aioioth.Stack(hosts={"me": "127.0.0.1"}) as stack:
        async with await stack.start_server(echo, "me", 7):
            reader, writer = await stack.open_connection("me", 7)
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()


async def test_scopes_are_the_stacks_own() -> None:
    hosts = {"far": "fe80::1%vde0"}
    async with aioioth.Stack("null://", ip="fd00::1/64", hosts=hosts) as stack:
        index = stack.interfaces["vde0"].index
        [info] = await stack.getaddrinfo("far", 80, type=DGRAM)
        assert info[4] == ("fe80::1", 80, 0, index)
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await stack.getnameinfo(info[4], numeric) == ("fe80::1%vde0", "80")
        assert await stack.getnameinfo(info[4]) == ("far", "http")
        assert await stack.getnameinfo(("fe80::1", 80, 0, 77), numeric) == (
            "fe80::1%77",
            "80",
        )


async def test_addresses_that_can_be_reached_come_first() -> None:
    hosts = {"both": ["10.0.0.5", "fd00::5"], "far": ["192.0.2.1", "fd00::5"]}
    async with (
        aioioth.Stack("null://", ip=["10.0.0.1/24", "fd00::1/64"], hosts=hosts) as both,
        aioioth.Stack("null://", ip="10.0.0.1/24", hosts=hosts) as four,
    ):
        assert await look_up(both, "both") == ["fd00::5", "10.0.0.5"]
        assert await look_up(four, "both") == ["10.0.0.5", "fd00::5"]
        assert await look_up(four, "far") == ["fd00::5", "192.0.2.1"]  # neither


@pytest.mark.parametrize(
    ("ip", "families"),
    [
        ((), [V6, V4]),
        (["10.0.0.1/24"], [V4]),
        (["fd00::1/64"], [V6]),
        (["10.0.0.1/24", "fd00::1/64"], [V6, V4]),
    ],
    ids=["lo", "v4", "v6", "both"],
)
async def test_addrconfig(ip: list[str], families: list[int]) -> None:
    hosts = {"both": ["10.0.0.5", "fd00::5"]}
    vnls = ["null://"] if ip else []
    every: dict[int, str] = {V4: "10.0.0.5", V6: "fd00::5"}
    flags = socket.AI_ADDRCONFIG
    async with aioioth.Stack(*vnls, ip=ip, hosts=hosts) as stack:
        found = await look_up(stack, "both", flags=flags)
        assert sorted(found) == sorted(every[each] for each in families)
        for family in {V4, V6} - set(families):
            error = await refused(stack, "both", family=family, flags=flags)
            assert error.errno == socket.EAI_NONAME
        # Never what needs no configuration.
        assert await look_up(stack, "fd00::7", flags=flags) == ["fd00::7"]
        assert await look_up(stack, "10.0.0.7", flags=flags) == ["10.0.0.7"]
        assert await look_up(stack, "localhost", flags=flags) == ["::1", "127.0.0.1"]


async def test_mapped_addresses() -> None:
    hosts = {"four": "10.0.0.5", "both": ["10.0.0.5", "fd00::5"]}
    mapped, everything = socket.AI_V4MAPPED, socket.AI_V4MAPPED | socket.AI_ALL
    async with aioioth.Stack(hosts=hosts) as stack:
        four = "::ffff:10.0.0.5"
        assert await look_up(stack, "four", family=V6, flags=mapped) == [four]
        assert await look_up(stack, "both", family=V6, flags=mapped) == ["fd00::5"]
        assert await look_up(stack, "both", family=V6, flags=everything) == [
            "fd00::5",
            four,
        ]


# Servers


async def test_both_families_at_once() -> None:
    async with client_of(server := Server(zone(DB, DB6))) as stack:
        assert await look_up(stack, "db.example") == ["fd00::5", "10.0.0.5"]
        assert sorted(server.asked) == ["udp db.example. A", "udp db.example. AAAA"]
        assert all(query.edns == 0 for query in server.queries)
        assert all(query.flags & dns.flags.RD for query in server.queries)


async def test_one_family_is_asked_for() -> None:
    async with client_of(server := Server(zone(DB, DB6))) as stack:
        assert await look_up(stack, "db.example", family=V4) == ["10.0.0.5"]
        assert server.asked == ["udp db.example. A"]


async def test_addrconfig_asks_for_what_can_be_used() -> None:
    async with (
        aioioth.Stack("memory://dns", ip="10.0.0.1/24") as far,
        aioioth.Stack("memory://dns", ip="10.0.0.9/24", dns="10.0.0.1") as stack,
        serving(far, "10.0.0.1", Server(zone(DB, DB6))) as server,
    ):
        found = await look_up(stack, "db.example", flags=socket.AI_ADDRCONFIG)
        assert found == ["10.0.0.5"]
        assert server.asked == ["udp db.example. A"]


async def test_a_server_by_its_link_local_address() -> None:
    async with (
        aioioth.Stack("memory://dns", ip="fd00::1/64") as far,
        aioioth.Stack("memory://dns", ip="fd00::9/64", dns="fe80::53%vde0") as stack,
    ):
        await far.add_address("fe80::53/64", dev="vde0")
        async with serving(far, "fe80::53%vde0", Server(zone(DB))):
            assert await look_up(stack, "db.example") == ["10.0.0.5"]


async def test_what_is_kept_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(_dns, "monotonic", lambda: now)
    script = zone(DB, "short.example. 0 A 10.0.0.6")
    async with client_of(server := Server(script)) as stack:
        for _ in range(2):
            await look_up(stack, "DB.example", family=V4)
        assert len(server.asked) == 1
        now += 61
        await look_up(stack, "db.example", family=V4)
        assert len(server.asked) == 2
        for _ in range(2):
            await look_up(stack, "short.example", family=V4)
        assert len(server.asked) == 4


@pytest.mark.parametrize(("soa", "questions"), [(30, 1), (0, 2), (None, 2)])
async def test_that_there_is_none_is_kept_as_long_as_the_zone_says(
    soa: int | None, questions: int
) -> None:
    async with client_of(server := Server(zone(DB6, soa=soa))) as stack:
        for _ in range(2):
            error = await refused(stack, "no.example", family=V4)
            assert error.errno == socket.EAI_NONAME
            assert "does not exist" in str(error)
            assert "10.0.0.1" in str(error)
        assert len(server.asked) == questions
        for _ in range(2):
            error = await refused(stack, "db.example", family=V4)
            assert error.errno == socket.EAI_NODATA
        assert len(server.asked) == 2 * questions


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dns, "_CACHE_SIZE", 2)

    def script(query: dns.message.Message) -> dns.message.Message:
        return answer(query, f"{query.question[0].name} 60 A 10.0.0.5")

    async with client_of(server := Server(script)) as stack:
        for name in "a.x", "b.x", "c.x", "c.x", "b.x", "a.x":
            await look_up(stack, name, family=V4)
        assert [each.split()[1] for each in server.asked] == [
            "a.x.",
            "b.x.",
            "c.x.",
            "a.x.",
        ]


async def test_aliases_are_followed() -> None:
    script = zone("www.example. 60 CNAME db.example.", DB)
    async with client_of(Server(script)) as stack:
        [info] = await stack.getaddrinfo(
            "www.example", 80, type=DGRAM, flags=socket.AI_CANONNAME
        )
        assert info[3:] == ("db.example", ("10.0.0.5", 80))


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("db", ["db.left.", "db.right."]),
        ("db.", ["db."]),
        ("db.right", ["db.right."]),
        ("x.db", ["x.db.", "x.db.left.", "x.db.right."]),
    ],
)
async def test_domains_are_searched(host: str, asked: list[str]) -> None:
    script = zone("db.right. 60 A 10.0.0.5", "x.db.right. 60 A 10.0.0.6")
    async with client_of(server := Server(script), domain=["left", "right"]) as stack:
        if host.endswith("."):
            assert (await refused(stack, host, family=V4)).errno == socket.EAI_NONAME
        else:
            assert len(await look_up(stack, host, family=V4)) == 1
        assert [each.split()[1] for each in server.asked] == asked


async def test_names_of_the_whole_world() -> None:
    script = zone("xn--bcher-kva.example. 60 A 10.0.0.5")
    async with client_of(Server(script)) as stack:
        assert await look_up(stack, "bücher.example") == ["10.0.0.5"]


@pytest.mark.parametrize("host", [b"a..b", b"\xff", b"a b", b"a\\.b", b"x" * 64, b""])
async def test_names_that_nobody_can_have(host: bytes) -> None:
    async with client_of(server := Server(zone())) as stack:
        with pytest.raises(socket.gaierror) as caught:
            await stack.getaddrinfo(host, 80)
        assert caught.value.errno == socket.EAI_NONAME
        assert server.asked == []


# Servers that do not do as they should


def truncated(query: dns.message.Message) -> dns.message.Message:
    reply = answer(query)
    reply.flags |= dns.flags.TC
    return reply


def servfail(query: dns.message.Message) -> dns.message.Message:
    return answer(query, rcode=dns.rcode.SERVFAIL)


def silent(query: dns.message.Message) -> None:
    return None


async def test_what_is_too_long_comes_over_tcp() -> None:
    records = [f"many.example. 60 A 10.1.{n // 256}.{n % 256}" for n in range(500)]
    server = Server(truncated, zone(*records))
    async with client_of(server) as stack:
        found = await look_up(stack, "many.example", family=V4)
        assert len(set(found)) == 500
        assert server.asked == ["udp many.example. A", "tcp many.example. A"]


async def test_cut_in_the_middle_of_a_record() -> None:
    def script(query: dns.message.Message) -> bytes:
        reply = answer(query, DB, soa=None)
        reply.flags |= dns.flags.TC
        return reply.to_wire()[:-15]

    async with client_of(Server(script, zone(DB))) as stack:
        assert await look_up(stack, "db.example", family=V4) == ["10.0.0.5"]


@pytest.mark.parametrize(
    "tcp", [lambda query: b"nonsense", lambda query: None, servfail, None]
)
async def test_too_long_and_tcp_fails(tcp: Script | None) -> None:
    async with client_of(Server(truncated, tcp)) as stack:
        error = await refused(stack, "db.example")
        assert error.errno == socket.EAI_AGAIN
        assert "10.0.0.1: " in str(error)


@pytest.mark.parametrize(
    "bad", [servfail, silent, lambda query: answer(query, rcode=dns.rcode.REFUSED)]
)
async def test_one_server_is_enough(bad: Script) -> None:
    async with client_of(Server(bad), Server(zone(DB)), Server(bad)) as stack:
        assert await look_up(stack, "db.example") == ["10.0.0.5"]


async def test_one_server_that_is_not_there() -> None:
    async with client_of(Server(zone(DB))) as stack:
        asks = aioioth.Stack(
            "memory://dns", ip="10.0.0.8/24", dns=["10.0.0.9", "192.0.2.1", "10.0.0.1"]
        )
        async with asks:
            assert await look_up(asks, "db.example") == ["10.0.0.5"]
        alone = aioioth.Stack(
            "memory://dns", ip="10.0.0.7/24", dns=["10.0.0.9", "192.0.2.1"]
        )
        async with alone:
            error = await refused(alone, "db.example")
            assert error.errno == socket.EAI_AGAIN
            assert "10.0.0.9: Connection refused" in str(error)
            assert "192.0.2.1: Network is unreachable" in str(error)
        assert stack.hosts == {}


@pytest.mark.usefixtures("quick")
async def test_nobody_answers() -> None:
    servers = Server(silent), Server(servfail)
    async with client_of(*servers) as stack:
        error = await refused(stack, "db.example", family=V4)
        assert error.errno == socket.EAI_AGAIN
        assert "10.0.0.1: no answer" in str(error)
        assert "10.0.0.2: SERVFAIL" in str(error)
        assert len(servers[0].asked) == _dns.TRIES
        assert len({query.id for query in servers[0].queries}) == 1


@pytest.mark.usefixtures("quick")
async def test_the_whole_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dns, "TOTAL_SECONDS", 0.05)
    async with client_of(Server(silent)) as stack:
        error = await refused(stack, "db.example")
        assert error.errno == socket.EAI_AGAIN
        assert "within 0.05 s" in str(error)


@pytest.mark.usefixtures("quick")
async def test_a_lost_question_is_asked_again() -> None:
    calls = iter([silent, zone(DB)])
    async with client_of(Server(lambda query: next(calls)(query))) as stack:
        assert await look_up(stack, "db.example", family=V4) == ["10.0.0.5"]


async def test_a_family_without_an_answer_hurts_no_other() -> None:
    def script(query: dns.message.Message) -> dns.message.Message:
        is_a = query.question[0].rdtype == dns.rdatatype.A
        return answer(query, DB) if is_a else servfail(query)

    async with client_of(Server(script)) as stack:
        assert await look_up(stack, "db.example") == ["10.0.0.5"]
        assert (await refused(stack, "db.example", family=V6)).errno == socket.EAI_AGAIN


def other_id(query: dns.message.Message) -> bytes:
    wire = answer(query, "db.example. 60 A 10.6.6.6").to_wire()
    return bytes([wire[0] ^ 1]) + wire[1:]


def other_question(query: dns.message.Message) -> dns.message.Message:
    other = dns.message.make_query("evil.example", "A", id=query.id)
    return answer(other, "evil.example. 60 A 10.6.6.6")


def no_reply(query: dns.message.Message) -> dns.message.Message:
    return query


@pytest.mark.parametrize(
    "forged", [other_id, other_question, no_reply, lambda query: b"nonsense"]
)
async def test_what_answers_something_else_is_passed_over(forged: Script) -> None:
    script = zone(DB)
    server = Server(lambda query: [forged(query), script(query)])
    async with client_of(server) as stack:
        assert await look_up(stack, "db.example", family=V4) == ["10.0.0.5"]
        assert len(server.asked) == 1


async def test_what_somebody_else_sends_is_passed_over() -> None:
    async with (
        aioioth.Stack("memory://dns", ip="10.0.0.1/24") as far,
        aioioth.Stack("memory://dns", ip="10.0.0.9/24", dns="10.0.0.1") as stack,
    ):
        with far.socket(V4, DGRAM) as other:
            forged = []

            class Forger(Server):
                """The same host and the right id, a little earlier: the wrong port."""

                def datagram_received(self, data: bytes, addr: Any) -> None:
                    query = dns.message.from_wire(data)
                    wire = answer(query, "db.example. 60 A 10.6.6.6").to_wire()
                    forged.append(other.sendto(wire, addr))
                    super().datagram_received(data, addr)

            async with serving(far, "10.0.0.1", Forger(zone(DB))):
                assert await look_up(stack, "db.example", family=V4) == ["10.0.0.5"]
            assert len(forged) == 1


async def test_a_server_older_than_edns() -> None:
    def script(query: dns.message.Message) -> dns.message.Message:
        if query.edns >= 0:
            return answer(query, rcode=dns.rcode.FORMERR)
        return answer(query, DB)

    async with client_of(server := Server(script)) as stack:
        assert await look_up(stack, "db.example", family=V4) == ["10.0.0.5"]
        assert [query.edns for query in server.queries] == [0, -1]


async def test_aliases_that_go_round_in_a_circle() -> None:
    script = zone("a.example. 60 CNAME b.example.", "b.example. 60 CNAME a.example.")
    async with client_of(Server(script)) as stack:
        error = await refused(stack, "a.example")
        assert error.errno == socket.EAI_AGAIN
        assert "no proper answer" in str(error)


# Back from addresses


PTR = "5.0.0.10.in-addr.arpa. 60 PTR db.example."
PTR6 = f"5.{'0.' * 27}0.0.d.f.ip6.arpa. 60 PTR db6.example."


async def test_reverse() -> None:
    hosts = {"web": ["10.0.0.6", "fd00::6"]}
    async with client_of(server := Server(zone(PTR, PTR6)), hosts=hosts) as stack:
        assert await stack.getnameinfo(("10.0.0.6", 80)) == ("web", "http")
        assert await stack.getnameinfo(("fd00::6", 80, 0, 0)) == ("web", "http")
        assert await stack.getnameinfo(("127.0.0.1", 80)) == ("localhost", "http")
        assert await stack.getnameinfo(("::1", 80)) == ("localhost", "http")
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await stack.getnameinfo(("10.0.0.5", 80), numeric) == ("10.0.0.5", "80")
        assert server.asked == []
        assert await stack.getnameinfo(("10.0.0.5", 80)) == ("db.example", "http")
        assert await stack.getnameinfo(("fd00::5", 80)) == ("db6.example", "http")
        assert await stack.getnameinfo(("::ffff:10.0.0.5", 80)) == (
            "db.example",
            "http",
        )
        numeric = socket.NI_NUMERICSERV
        assert await stack.getnameinfo(("10.0.0.5", 80), numeric) == (
            "db.example",
            "80",
        )
        assert len(server.asked) == 2


async def test_an_address_without_a_name() -> None:
    async with client_of(Server(zone())) as stack:
        for asks in stack, aioioth.Stack():
            async with AsyncExitStack() as undo:
                if asks is not stack:
                    await undo.enter_async_context(asks)
                assert await asks.getnameinfo(("10.0.0.5", 80)) == ("10.0.0.5", "http")
                with pytest.raises(socket.gaierror) as caught:
                    await asks.getnameinfo(("10.0.0.5", 80), socket.NI_NAMEREQD)
                assert caught.value.errno == socket.EAI_NONAME


async def test_a_name_that_is_none() -> None:
    script = zone(r"5.0.0.10.in-addr.arpa. 60 PTR a\032b\010c.example.")
    async with client_of(Server(script)) as stack:
        assert await stack.getnameinfo(("10.0.0.5", 80)) == ("10.0.0.5", "http")


async def test_reverse_and_the_server_fails() -> None:
    async with client_of(Server(servfail)) as stack:
        with pytest.raises(socket.gaierror) as caught:
            await stack.getnameinfo(("10.0.0.5", 80))
        assert caught.value.errno == socket.EAI_AGAIN


# Threads, loops, cancellation


async def test_in_a_thread() -> None:
    async with client_of(Server(zone(DB, PTR))) as stack:
        resolver = stack.resolver
        infos = await asyncio.to_thread(
            resolver.getaddrinfo_blocking, "db.example", 80, type=DGRAM
        )
        assert [info[4] for info in infos] == [("10.0.0.5", 80)]
        name = await asyncio.to_thread(
            resolver.getnameinfo_blocking, ("10.0.0.5", 80), 0
        )
        assert name == ("db.example", "http")


async def test_the_loop_is_not_held() -> None:
    hosts = {"db": "10.0.0.5"}
    async with client_of(server := Server(zone(DB)), hosts=hosts) as stack:
        resolver = stack.resolver
        for known in "10.0.0.5", "localhost", "db":
            assert resolver.getaddrinfo_blocking(known, 80)
        with pytest.raises(socket.gaierror, match=r"await loop\.getaddrinfo") as caught:
            resolver.getaddrinfo_blocking("db.example", 80)
        assert caught.value.errno == socket.EAI_AGAIN
        with pytest.raises(socket.gaierror, match="asyncio"):
            resolver.getnameinfo_blocking(("10.0.0.6", 80))
        assert server.asked == []


async def test_on_trio() -> None:
    async with client_of(server := Server(zone(DB, PTR))) as stack:

        async def on_trio() -> None:
            infos = await stack.getaddrinfo("db.example", 80, type=DGRAM)
            assert [info[4] for info in infos] == [("10.0.0.5", 80)]
            name = await stack.getnameinfo(("10.0.0.5", 80))
            assert name == ("db.example", "http")
            with pytest.raises(socket.gaierror, match="event loop of trio"):
                stack.resolver.getaddrinfo_blocking("other.example", 80)
            server.script = silent
            with anyio.move_on_after(0.1) as scope:
                await stack.getaddrinfo("slow.example", 80)
            assert scope.cancelled_caught

        await asyncio.to_thread(partial(anyio.run, on_trio, backend="trio"))


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_anywhere(times: int) -> None:
    server = Server(truncated, zone("db.example. 0 A 10.0.0.5", soa=0))
    async with client_of(server, Server(servfail)) as stack:
        await look_up(stack, "db.example")  # imports, and a thread that stays

        async def ask() -> None:
            assert await look_up(stack, "db.example") == ["10.0.0.5"]

        assert await cancel_everywhere(ask, times=times) > 0

        async def ask_back() -> None:
            await stack.getnameinfo(("10.0.0.5", 80))

        assert await cancel_everywhere(ask_back, times=times) > 0


async def test_the_stack_is_closed_meanwhile() -> None:
    async with client_of(Server(truncated, zone(DB))) as stack:
        await stack.aclose()
        with pytest.raises(aioioth.errors.ClosedError):
            await stack.getaddrinfo("db.example", 80)
