"""Many stacks at once."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aioioth._background import carried
from aioioth._ip import parse_ip
from aioioth.errors import ConfigurationError
from aioioth.networks import find_network
from aioioth.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from types import TracebackType

    from aioioth._ip import IPInterface
    from aioioth.abc import FrameTransport
    from aioioth.stack import Addresses

__all__ = ["open_stacks"]

# Enough to keep the keeper busy while the loop does its part (measured: more gain
# nothing).
_AT_A_TIME = 16

_INTERFACES = (ipaddress.IPv4Interface, ipaddress.IPv6Interface)


class open_stacks:  # noqa: N801  (it is called like a function)
    """Open many stacks that differ only in their addresses.

    ``async with open_stacks(1000, "bridge://lan", ip="10.0.0.1/16") as stacks:`` gives
    a list of open stacks; the first is 10.0.0.1, the second 10.0.0.2, and so on.
    They are made side by side, and closed together in the end. A stack may be closed
    earlier.

    Args:
        count: How many.
        *vnls: The virtual networks of each, as `aioioth.Stack` has them.
        ip: The first stack's addresses, as `aioioth.Stack` has them. Each further stack
            gets the following ones.
        name: Begins the stacks' names; a number from 1 follows.
        **settings: What else `aioioth.Stack` takes, the same for all.

    Raises:
        ConfigurationError: An argument cannot be right, or the networks have not so
            many addresses.

    Entering raises what `Stack.open` raises, and leaves no stack behind. So does
    cancellation.
    """

    def __init__(
        self,
        count: int,
        *vnls: str | FrameTransport,
        ip: Addresses | Mapping[str, Addresses] = (),
        name: str | None = None,
        **settings: Any,
    ) -> None:
        if count < 0:
            msg = f"{count} stacks: expected 0 or more"
            raise ConfigurationError(msg)
        for each in ("mac", "fqdn"):
            if settings.get(each) is not None:
                msg = (
                    f"{each}: two stacks with the same MAC address do not hear each "
                    f"other; leave it out"
                )
                raise ConfigurationError(msg)
        networks: list[Any] = [find_network(vnl) for vnl in vnls]
        self._stacks = [
            Stack(
                *networks,
                ip=addresses,
                name=None if name is None else f"{name}{number}",
                **settings,
            )
            for number, addresses in enumerate(_count_up(ip, count), 1)
        ]

    @carried
    async def __aenter__(self) -> list[Stack]:
        """Open the stacks."""
        try:
            await _for_each(self._stacks, Stack.open)
        except BaseException:
            self._close()
            raise
        return list(self._stacks)

    @carried
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the last frames go, and close the stacks."""
        try:
            await _for_each(self._stacks[::-1], Stack.aclose)
        finally:
            self._close()

    def _close(self) -> None:
        for stack in reversed(self._stacks):
            stack.close()


async def _for_each(
    stacks: Sequence[Stack], act: Callable[[Stack], Awaitable[object]]
) -> None:
    """Do something with all stacks, some of them at a time.

    Each turn of the loop has as many to do at most: the others on it are not held up.
    """
    left = iter(stacks)

    async def work() -> None:
        for stack in left:
            await act(stack)

    workers = [asyncio.create_task(work()) for _ in range(_AT_A_TIME)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _count_up(ip: Addresses | Mapping[str, Addresses], count: int) -> Iterator[Any]:
    """Return the addresses of each stack."""
    if isinstance(ip, Mapping):
        counters = {name: _count_up(each, count) for name, each in ip.items()}
        for _ in range(count):
            yield {name: next(counter) for name, counter in counters.items()}
        return
    texts = [ip] if isinstance(ip, (str, *_INTERFACES)) else list(ip)
    first = [parse_ip(text) for text in texts]
    for address in first:
        _check_room(address, count)
    for number in range(count):
        yield [_plus(address, number) for address in first]


def _check_room(first: IPInterface, count: int) -> None:
    network = first.network
    last = network.num_addresses - 1
    if network.version == 4 and network.prefixlen < 31:
        last -= 1  # the broadcast address
    room = last - (int(first.ip) - int(network.network_address)) + 1
    if count > room:
        msg = f"ip={str(first)!r}: {network} has room for {room} stacks from there"
        raise ConfigurationError(msg)


def _plus(address: IPInterface, number: int) -> IPInterface:
    return type(address)((int(address.ip) + number, address.network.prefixlen))
