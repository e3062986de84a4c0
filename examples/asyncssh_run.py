"""An SSH server on one stack, a client on another.

Run it:     python examples/asyncssh_run.py
It prints:  you ran 'uptime' from 10.0.0.2
"""

from __future__ import annotations

import asyncio

import asyncssh

import aioioth
from aioioth.adapters.asyncssh import connect, listen


def answer(process: asyncssh.SSHServerProcess[str]) -> None:
    """Say what was asked for, instead of doing it."""
    peer = process.get_extra_info("peername")[0]
    process.stdout.write(f"you ran {process.command!r} from {peer}\n")
    process.exit(0)


async def main() -> None:
    """Serve, and run a command."""
    key = asyncssh.generate_private_key("ssh-ed25519")  # the server's, and the client's
    public = key.convert_to_public()
    allowed = asyncssh.import_authorized_keys(key.export_public_key().decode())
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.1/24") as server,
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as client,
        await listen(
            server,
            "10.0.0.1",
            process_factory=answer,
            server_host_keys=[key],
            authorized_client_keys=allowed,
        ),
        await connect(
            client,
            "10.0.0.1",
            username="me",
            client_keys=[key],
            known_hosts=([public], [], []),
        ) as connection,
    ):
        done = await connection.run("uptime")
        print(done.stdout, end="")


if __name__ == "__main__":
    asyncio.run(main())
