"""A TCP/IP stack of its own for every part of an asyncio program, without root.

    async with aioioth.Stack("vde:///tmp/sw", ip="10.0.0.50/24") as stack:
        reader, writer = await stack.open_connection("10.0.0.1", 7)

Where things are:

* `aioioth.stack`, `aioioth.interfaces`, `aioioth.events`: the stack and what it has
* `aioioth.bulk`: many stacks at once
* `aioioth.streams`, `aioioth.endpoints`: asyncio's calls on a stack
* `aioioth.anyio`: anyio's, for trio too
* `aioioth.default`, `aioioth.runners`: a default stack for code that knows of none
* `aioioth.guard`: an error where something leaves the stack
* `aioioth.adapters`: aiohttp, httpx, uvicorn, redis and others on a stack
* `aioioth.names`: what a name means in a stack
* `aioioth.processes`: programs in a stack
* `aioioth.iproute`: links, addresses, routes, neighbours and rules as values
* `aioioth.configuration`: how far a stack has configured itself
* `aioioth.servers`: DHCP, router advertisements, DNS; `aioioth.servers.Lan`
* `aioioth.hashes`, `aioioth.otip`: addresses that are made of names
* `aioioth.netlink`: pyroute2 on a stack, on any event loop
* `aioioth.bridge`: a network inside the kernel, shared by programs
* `aioioth.switch`: a learning switch inside the process
* `aioioth.cable`: joins any two networks
* `aioioth.errors`: every error, as a tree
* `aioioth.abc`, `aioioth.vnl`, `aioioth.wire`: what plug-ins build on (and
  `aioioth.wire.ethernet.summarize`, a line about a frame)
* `aioioth.testing`: for your tests
"""

from __future__ import annotations

from aioioth import errors
from aioioth._background import stacks
from aioioth.bulk import open_stacks
from aioioth.cable import Cable, CableStats
from aioioth.configuration import Achieved
from aioioth.default import current_stack
from aioioth.events import (
    CarrierDown,
    CarrierUp,
    Configured,
    Event,
    EventStream,
    InterfaceAdded,
    InterfaceRemoved,
    Unconfigured,
)
from aioioth.guard import guard
from aioioth.interfaces import Interface, InterfaceStats
from aioioth.names import Hosts
from aioioth.runners import Runner, new_event_loop, run
from aioioth.stack import SocketInfo, Stack
from aioioth.streams import open_connection, start_server
from aioioth.switch import Switch

__all__ = [
    "Achieved",
    "Cable",
    "CableStats",
    "CarrierDown",
    "CarrierUp",
    "Configured",
    "Event",
    "EventStream",
    "Hosts",
    "Interface",
    "InterfaceAdded",
    "InterfaceRemoved",
    "InterfaceStats",
    "Runner",
    "SocketInfo",
    "Stack",
    "Switch",
    "Unconfigured",
    "current_stack",
    "errors",
    "guard",
    "new_event_loop",
    "open_connection",
    "open_stacks",
    "run",
    "stacks",
    "start_server",
]
