"""Links and queueing disciplines as methods of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioioth import _linkmaking, _listing, _qdiscs
from aioioth._background import carried
from aioioth._configurable import Configurable

if TYPE_CHECKING:
    from aioioth.iproute import Link, Qdisc


class StackLinks(Configurable):
    """The part of `aioioth.Stack` that is ``ip link`` and ``tc qdisc``.

    All of it may raise, besides what is said: ClosedError if the stack is not open,
    WrongLoopError if it belongs to another event loop. Of what is cancelled all,
    nothing, or the beginning has been carried out.
    """

    @carried
    async def links(self) -> list[Link]:
        """Return what ``ip link`` shows, ``lo`` first.

        Raises:
            NetlinkError: The kernel refused.
        """
        return await _listing.links(self._usable_parts().space)

    @carried
    async def add_link(
        self,
        name: str,
        kind: str,
        *,
        mac: str | None = None,
        mtu: int | None = None,
        link: str | None = None,
        master: str | None = None,
        up: bool = False,
        **details: Any,
    ) -> None:
        """Do ``ip link add NAME type KIND``.

        It is a link inside the stack, which the kernel serves; an interface on a
        virtual network comes from `add_interface`. What the kinds need besides:

        * ``veth``: ``peer``, the other end's name
        * ``bridge``, ``dummy``: nothing
        * ``vlan``: `link`, and ``id``, 1 to 4094
        * ``macvlan``: `link`, and ``mode``, ``bridge`` for example; else ``vepa``
        * ``vxlan``: ``id``; ``remote`` or ``group``, ``local``, ``dev``, ``port``
        * any other kind: what pyroute2's ``link("add", ...)`` takes

        Args:
            name: What it is called.
            kind: As above, or one that pyroute2 and the kernel know.
            mac: None: the kernel makes one up.
            mtu: In bytes; None for what is usual.
            link: Name of the link that it lies on.
            master: Name of the bridge that it is to be a port of.
            up: Set it up, too.
            **details: What its kind needs.

        Raises:
            NetlinkError: The kernel refused: EEXIST; EOPNOTSUPP if it has no links of
                that kind, which is what the message says then.
            ConfigurationError: Something cannot be right, or is missing; or the kind is
                one whose frames a program would have to read (``tun``).
        """
        common = {"mac": mac, "mtu": mtu, "link": link, "master": master}
        await _linkmaking.add(
            self._usable_parts(), name, kind, {**common, "up": up or None}, details
        )

    @carried
    async def del_link(self, name: str) -> None:
        """Do ``ip link del NAME``.

        Args:
            name: Of a link that `add_link` or the kernel made.

        Raises:
            NetlinkError: The kernel refused: ENODEV, EOPNOTSUPP for ``lo``.
            ConfigurationError: It is an interface on a virtual network, which
                `remove_interface` takes away.
        """
        await _linkmaking.delete(self._usable_parts(), name)

    @carried
    async def set_link(
        self,
        dev: str,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        mac: str | None = None,
        name: str | None = None,
        master: str | None = None,
        nomaster: bool = False,
    ) -> None:
        """Do ``ip link set DEV ...``, all in one request.

        Args:
            dev: The link's name.
            up: Set it up, or down.
            mtu: In bytes, link-layer header not counted.
            mac: Its new MAC address.
            name: Its new name. Linux before 6.2 wants it to be down.
            master: Name of the bridge that it is to be a port of.
            nomaster: Take it out of its bridge.

        Raises:
            NetlinkError: The kernel refused: ENODEV, EINVAL, EEXIST, ...
            ConfigurationError: Something cannot be right; or an interface that
                configures itself is to have another name.
        """
        await _linkmaking.change(
            self._usable_parts(),
            dev,
            name=name,
            nomaster=nomaster,
            mac=mac,
            mtu=mtu,
            master=master,
            up=up,
        )

    # Queueing disciplines

    @carried
    async def add_qdisc(self, dev: str, kind: str, **options: Any) -> None:
        """Do ``tc qdisc add dev DEV KIND``, by pyroute2.

        ``await stack.add_qdisc("vde0", "tbf", rate="1mbit", latency="50ms",
        burst=10000)``. Loss and delay between stacks are better made on the network: a
        qdisc's loss is seen by the sender's own TCP.

        Args:
            dev: Name of the interface.
            kind: ``tbf``, ``htb``, ``sfq``, ...
            **options: As pyroute2's ``tc("add", kind, ...)`` takes them; ``handle`` and
                ``parent`` among them.

        Raises:
            NetlinkError: The kernel refused, or lacks the kind (ENOENT).
            ConfigurationError: An option is missing or unknown.
        """
        parts = self._usable_parts()
        await _qdiscs.change(parts, "add", dev, kind, options)

    @carried
    async def replace_qdisc(self, dev: str, kind: str, **options: Any) -> None:
        """Do ``tc qdisc replace dev DEV KIND``; see `add_qdisc`.

        Raises:
            NetlinkError: The kernel refused, or lacks the kind (ENOENT).
            ConfigurationError: An option is missing or unknown.
        """
        parts = self._usable_parts()
        await _qdiscs.change(parts, "replace", dev, kind, options)

    @carried
    async def del_qdisc(self, dev: str, parent: str = "root") -> None:
        """Do ``tc qdisc del dev DEV root``.

        Args:
            dev: Name of the interface.
            parent: Where it is: ``root``, ``ingress``, or a class like ``1:10``.

        Raises:
            NetlinkError: The kernel refused: ENOENT if there is none.
        """
        await _qdiscs.delete(self._usable_parts(), dev, parent)

    @carried
    async def qdiscs(self, dev: str | None = None) -> list[Qdisc]:
        """Return what ``tc qdisc`` shows.

        Args:
            dev: Name of an interface; None for all.

        Raises:
            NetlinkError: There is no such interface (ENODEV).
        """
        return await _qdiscs.listed(self._usable_parts(), dev)
