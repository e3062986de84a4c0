"""A stack that configures itself, as its methods."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from aioioth import _configstring
from aioioth._autoconf.wanted import (
    DHCP,
    DHCP6,
    ETH,
    RA,
    STATIC,
    Wanted,
    check_timeout,
    from_keywords,
)
from aioioth._background import carried
from aioioth.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from ipaddress import IPv6Network

    from aioioth._autoconf.sources import Sources
    from aioioth._ip import IPAddress, IPInterface
    from aioioth.configuration import Achieved

# As VirtualSquare's clients take altogether when nobody answers, twice.
TIMEOUT = 30.0


class StackSelfConfiguring:
    """The part of `aioioth.Stack` that asks its networks how it is to be configured."""

    @abstractmethod
    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Return the stack's loop; see `aioioth.Stack.check_usable`."""

    @abstractmethod
    def _sources(self) -> Sources:
        """Return what configures the stack, made with its first use."""

    @carried
    async def configure(  # noqa: PLR0913  (one keyword for each thing that can be said)
        self,
        text: str | None = None,
        /,
        *,
        interface: str | None = None,
        eth: bool | None = None,
        dhcp: bool | None = None,
        dhcp6: bool | None = None,
        ra: bool | None = None,
        slaac: bool = True,
        prefix_length: int | None = None,
        static: bool | None = None,
        fqdn: str | None = None,
        mac: str | None = None,
        ip: str | IPInterface | Sequence[str | IPInterface] = (),
        gw: str | IPAddress | Sequence[str | IPAddress] = (),
        dns: str | IPAddress | Sequence[str | IPAddress] = (),
        domain: str | Sequence[str] = (),
        drop_ip: str | IPInterface | Sequence[str | IPInterface] = (),
        drop_gw: str | IPAddress | Sequence[str | IPAddress] = (),
        drop_dns: str | IPAddress | Sequence[str | IPAddress] = (),
        drop_domain: str | Sequence[str] = (),
        timeout: float = TIMEOUT,
    ) -> Achieved:
        """Configure one interface, by hand or by asking the network; or undo that.

        ``await stack.configure("eth,dhcp")`` is ``configure(eth=True, dhcp=True)``, and
        ``"-dhcp"`` is ``dhcp=False``. What is asked once goes on in the background:
        leases are renewed, lost, and asked for again, also when the cable was out. Each
        source is undone by itself, and asked again by naming it again. First what is
        to be undone is, then the interface is set up, the network asked, and last what
        is given by hand added.

        Args:
            text: All of it in one line; then without the other keywords, `timeout`
                excepted. See the reference, "The configuration string".
            interface: Its name. None: the stack's first.
            eth: Set the MAC address and the interface up; False: set it down.
            dhcp: Lease an IPv4 address from a DHCP server; False: give it back.
            dhcp6: Lease IPv6 addresses, or ask for DNS servers alone.
            ra: Listen to router advertisements: default routes, DNS servers, MTU.
            prefix_length: With `dhcp6`, also ask for a network to give to others, of
                this length; see `prefixes`.
            slaac: Whether they give addresses, too, as far as they say so.
            static: False: undo all that was given by hand.
            fqdn: The stack's name: told to DHCP servers; the interface's MAC address
                (``eth``) and addresses (``ra``) are made of it, see `aioioth.hashes`.
            mac: For ``eth``; in place of one made of the name.
            ip: Addresses to add; without prefix length /24, or /64 of IPv6.
            gw: Default routers to add.
            dns: DNS servers to add.
            domain: Search domains to add.
            drop_ip: Addresses to take away again that were given by hand.
            drop_gw: Default routers, likewise.
            drop_dns: DNS servers, likewise.
            drop_domain: Search domains, likewise.
            timeout: Seconds to wait for the network's answers. 0: not at all, they are
                dealt with whenever they come.

        Returns:
            What of it was achieved: of ``dhcp``, ``dhcp6`` and ``ra`` those that
            somebody answered to in time. See also `achieved`.

        Raises:
            ConfigurationError: Something cannot be right (`ConfigStringError` shows
                where in the text), or there is no such interface.
            NetlinkError: The kernel refused something that was given by hand.
            ClosedError: The stack is not open.
            WrongLoopError: The stack belongs to another event loop.

        Cancellation:
            What was begun goes on in the background, as if it had not been waited for.
        """
        self.check_usable()
        wanted = from_keywords(
            interface=interface,
            fqdn=fqdn,
            mac=mac,
            switches={ETH: eth, RA: ra, DHCP6: dhcp6, DHCP: dhcp, STATIC: static},
            slaac=slaac,
            prefix_length=prefix_length,
            add={"ip": ip, "gw": gw, "dns": dns, "domain": domain},
            remove={
                "ip": drop_ip,
                "gw": drop_gw,
                "dns": drop_dns,
                "domain": drop_domain,
            },
        )
        if text is not None:
            parsed = _configstring.parse(text)
            if wanted != Wanted(slaac=slaac):
                msg = "configure(): either a text, or keywords"
                raise ConfigurationError(msg)
            if parsed.stack is not None or parsed.vnl is not None:
                msg = "stack= and vnl= make a stack: Stack.from_config() takes them"
                raise ConfigurationError(msg)
            wanted = parsed.wanted
        return await self._sources().configure(wanted, check_timeout(timeout))

    def prefixes(self, interface: str | None = None) -> tuple[IPv6Network, ...]:
        """Return the networks that DHCPv6 servers have delegated to the stack.

        They are for other networks, behind the stack; nothing is done with them.

        Args:
            interface: By way of this one; None: the stack's first.

        Raises:
            ClosedError: The stack is not open.
        """
        return self._sources().prefixes(interface)

    @property
    def achieved(self) -> dict[str, Achieved]:
        """How far each interface's configuration has come, as it is now.

        Raises:
            ClosedError: The stack is not open.
        """
        return dict(self._sources().achieved)
