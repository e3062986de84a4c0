"""asyncssh on a stack, both ends; and OpenSSH's client."""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

import aioioth
from aioioth.adapters.asyncssh import connect, listen
from aioioth.testing import cancel_everywhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.adapters.conftest import Lan

KEY = asyncssh.generate_private_key("ssh-ed25519")
CLIENT: dict[str, Any] = {
    "username": "me",
    "client_keys": [KEY],
    "known_hosts": ([KEY.convert_to_public()], [], []),
    "agent_path": None,
}
SERVER: dict[str, Any] = {
    "server_host_keys": [KEY],
    "authorized_client_keys": asyncssh.import_authorized_keys(
        KEY.export_public_key().decode()
    ),
}


def greet(process: asyncssh.SSHServerProcess[str]) -> None:
    peer = process.get_extra_info("peername")[0]
    process.stdout.write(f"{process.command} from {peer}\n")
    process.exit(0)


@asynccontextmanager
async def serving(
    stack: aioioth.Stack, host: str | None = None, port: int = 22
) -> AsyncIterator[Any]:
    connections = []

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            connections.append(conn)

    async with await listen(
        stack, host, port, server_factory=Server, process_factory=greet, **SERVER
    ) as acceptor:
        yield acceptor
    # An acceptor that is closed leaves them alone.
    for connection in connections:
        connection.abort()
        await connection.wait_closed()


@pytest.mark.parametrize(
    ("host", "peers"),
    [
        ("10.0.0.1", {"::ffff:10.0.0.2"}),
        ("fd00::1", {"fd00::2"}),
        ("web", {"::ffff:10.0.0.2", "fd00::2"}),
    ],
)
async def test_run(lan: Lan, host: str, peers: set[str]) -> None:
    async with (
        serving(lan.server),
        await connect(lan.client, host, **CLIENT) as connection,
    ):
        done = await connection.run("hello")
        assert done.stdout in {f"hello from {peer}\n" for peer in peers}
    assert lan.client.sockets() == []


async def test_the_local_address_and_the_port(lan: Lan) -> None:
    await lan.client.add_address("10.0.0.9/24", dev="vde0")
    local = {"local_addr": ("10.0.0.9", 0), **CLIENT}
    async with serving(lan.server, "10.0.0.1", 0) as acceptor:
        port = acceptor.get_port()
        async with await connect(lan.client, "10.0.0.1", port, **local) as connection:
            assert (await connection.run("hello")).stdout == "hello from 10.0.0.9\n"


async def test_forwarding_in_an_active_stack(lan: Lan) -> None:
    async with (
        serving(lan.server, "10.0.0.1"),
        await connect(lan.client, "10.0.0.1", **CLIENT) as connection,
    ):
        with lan.client.activate(patch=True):
            listener = await connection.forward_local_port("10.0.0.2", 5555, "web", 80)
        used = [sock.local for sock in lan.client.sockets()]
        assert ("10.0.0.2", 5555) in used
        listener.close()
        await listener.wait_closed()


async def test_openssh(lan: Lan, tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh program")
    key, known = tmp_path / "key", tmp_path / "known"
    KEY.write_private_key(key)
    key.chmod(0o600)
    known.write_text(f"10.0.0.1 {KEY.export_public_key().decode()}")
    options = ["-F", "none", "-i", str(key), "-o", f"UserKnownHostsFile={known}"]
    async with serving(lan.server, "10.0.0.1", 22):
        ssh = await lan.client.create_subprocess_exec(
            *["ssh", *options, "me@10.0.0.1", "hello"],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, errors = await ssh.communicate()
    assert printed == b"hello from 10.0.0.2\n", errors


async def test_the_hosts_key_is_not_known(lan: Lan) -> None:
    stranger = CLIENT | {"known_hosts": ([], [], [])}
    async with serving(lan.server, "10.0.0.1"):
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await connect(lan.client, "10.0.0.1", **stranger)
    assert lan.client.sockets() == []


async def test_refused(lan: Lan) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(lan.client, "10.0.0.1", **CLIENT)


async def test_nobody_has_that_name(lan: Lan) -> None:
    with pytest.raises(socket.gaierror):
        await connect(lan.client, "nobody", **CLIENT)


async def test_the_stack_is_closed(closed: aioioth.Stack) -> None:
    with pytest.raises(aioioth.errors.ClosedError):
        await connect(closed, "10.0.0.1", **CLIENT)
    with pytest.raises(aioioth.errors.ClosedError):
        await listen(closed, **SERVER)


async def test_the_address_is_in_use(lan: Lan) -> None:
    async with serving(lan.server, "10.0.0.1", 22):
        with pytest.raises(OSError, match="error while attempting to bind"):
            await listen(lan.server, "10.0.0.1", 22, **SERVER)


async def test_wrong_arguments(lan: Lan) -> None:
    with pytest.raises(TypeError):
        await listen(lan.server, "10.0.0.1", 22, nonsense=True, **SERVER)
    with lan.server.socket() as silent:
        silent.bind(("10.0.0.1", 22))
        silent.listen()
        with pytest.raises(TypeError):
            await connect(lan.client, "10.0.0.1", 22, nonsense=True, **CLIENT)
    assert lan.client.sockets() == []


async def hang_up(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    await connection.wait_closed()


async def stop(acceptor: asyncssh.SSHAcceptor) -> None:
    acceptor.close()
    await acceptor.wait_closed()


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_connects(lan: Lan, times: int) -> None:
    async with serving(lan.server, "10.0.0.1"):
        start = partial(connect, lan.client, "10.0.0.1", **CLIENT)
        assert await cancel_everywhere(start, undo=hang_up, times=times) > 1


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_starts(lan: Lan, times: int) -> None:
    start = partial(listen, lan.server, None, 22, **SERVER)
    await stop(await start())  # libuv opens /dev/null with a loop's first stream
    assert await cancel_everywhere(start, undo=stop, times=times) >= 0
    assert lan.server.sockets() == []
