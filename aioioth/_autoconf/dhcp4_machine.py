"""The DHCPv4 client's state machine: messages and time in, what to do out.

It knows no sockets and no clock, and never waits: every method is given the time, and
returns what is to be done at once. `Machine.deadline` is when it wants to be called
again.

Source: RFC 2131 sections 4.4 (the client) and 4.1 (sending again), RFC 5227 section 2.1
(asking whether anybody has the address), RFC 4702 (the client's name).
"""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from aioioth._autoconf.dhcp4_actions import Action, Bind, Lose, Probe, Send, State
from aioioth._autoconf.dhcp4_lease import Lease
from aioioth.wire.dhcp4 import (
    REPLY,
    REQUEST,
    ClientName,
    Message,
    MessageType,
    Option,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioioth.wire.arp import ArpPacket

# RFC 2131 section 4.1 begins with 4 s, meant for cables of the last century. On virtual
# networks an answer takes milliseconds, and it is the very first packets that are lost:
# the interface, or the switch's port, has just come up.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 64.0
# Of a delay, to either side; 1 s at most. So that hosts do not all speak at once.
_SPREAD = 0.25
# With the delays above, 15 s; then somebody else may be asked.
_REQUESTS = 4
_REBOOTS = 3
# RFC 2131 section 4.4.5: between two requests for more time; and what is reasonable if
# there are only seconds.
_RENEWAL_PAUSE, _SHORT_PAUSE = 60.0, 1.0
_SHORT_PHASE = 120.0
# RFC 2131 section 3.1, after the address was found to be another's.
_DECLINED_PAUSE = 10.0
# RFC 5227 takes 4 to 7 s for it. A stack is wanted at once, its network answers within
# milliseconds, and the server has an eye on its addresses, too: this finds those that
# somebody has chosen by hand.
_PROBES, _PROBE_PAUSE = 3, 0.2

_MAX_MESSAGE = 1472  # what fits into one frame of Ethernet
_WANTED = bytes(
    [
        Option.NETMASK,
        Option.ROUTES,  # before the routers: RFC 3442
        Option.ROUTERS,
        Option.DNS,
        Option.DOMAIN,
        Option.MTU,
        Option.LEASE_TIME,
        Option.SERVER,
        Option.RENEWAL_TIME,
        Option.REBINDING_TIME,
        Option.DOMAIN_SEARCH,
    ]
)

_NOBODY = IPv4Address(0)


class Machine:
    """One client, on one interface.

    Args:
        mac: The interface's address, 6 bytes.
        fqdn: Name that we want to have in the DNS; None for none.
        random: Returns a number from 0 to 1.
        new_xid: Returns a number of 32 bits that nobody can guess.

    Raises:
        ValueError: The name is none.

    Attributes:
        state: Where it is.
        deadline: When to call `timer`; infinity for never.
    """

    def __init__(
        self,
        mac: bytes,
        fqdn: str | None,
        *,
        random: Callable[[], float],
        new_xid: Callable[[], int],
    ) -> None:
        self.state: State = State.INIT
        self.deadline: float = math.inf
        self._mac = mac
        self._random, self._new_xid = random, new_xid
        self._options: dict[int, bytes] = {
            Option.CLIENT_ID: b"\1" + mac,
            Option.MAX_SIZE: _MAX_MESSAGE.to_bytes(2, "big"),
        }
        if fqdn is not None:
            # The server shall tell the DNS both ways.
            self._options[Option.CLIENT_NAME] = ClientName(
                fqdn, server_adds=True
            ).pack()
        self._message: Message | None = None  # sent last; its answer is waited for
        self._began = self._asked = 0.0  # the exchange, and the request in it
        self._sent = 0  # how often
        self._failures = 0  # of whole exchanges, since there was a lease
        self._offer: Message | None = None
        self._lease: Lease | None = None
        self._held = False  # whether it is in use, not only being probed

    @property
    def is_listening(self) -> bool:
        """Whether it waits for an answer from a server."""
        return self.state not in {State.INIT, State.PROBING, State.BOUND}

    # What happens

    def start(self, now: float) -> list[Action]:
        """Begin.

        RFC 2131 has clients wait for 1 to 10 s first, so that not all of them begin at
        once when the power comes back. Here nobody else has just got power.
        """
        return self._discover(now)

    def refresh(self, now: float) -> list[Action]:
        """Ask now: the network may be another one, or is back."""
        if self._held:
            return self._ask_again(now)
        # What was offered may be the other network's.
        self._lease = None
        return self._discover(now)

    def release(self) -> list[Action]:
        """Give the lease back; nothing else may follow."""
        lease, self._lease, self._held = self._lease, None, False
        self.state, self.deadline = State.INIT, math.inf
        if lease is None:
            return []
        options: dict[int, bytes] = {
            Option.SERVER: lease.server.packed,
            Option.CLIENT_ID: self._options[Option.CLIENT_ID],
        }
        message = self._make(
            MessageType.RELEASE, options, self._new_xid(), client=lease.address.ip
        )
        return [Send(message, lease.address.ip, lease.server)]

    def timer(self, now: float) -> list[Action]:
        """Do what is due; nothing if it is too early."""
        if now < self.deadline:
            return []
        if self._lease is not None and now >= self._lease.expires:
            return [*self._lose("the lease has expired"), *self._discover(now)]
        what_is_due = {
            State.INIT: self._discover,
            State.SELECTING: self._send_and_wait,
            State.REQUESTING: self._on_requesting,
            State.PROBING: self._probe,
            State.BOUND: self._renew,
            State.RENEWING: self._renew,
            State.REBINDING: self._rebind,
            State.REBOOTING: self._on_rebooting,
        }
        return what_is_due[self.state](now)

    def receive(self, message: Message, now: float) -> list[Action]:
        """Take a message from the network.

        All that is not an answer to what was asked is ignored.
        """
        asked = self._message
        if (
            not self.is_listening
            or asked is None
            or message.op != REPLY
            or message.xid != asked.xid
            or message.mac != self._mac
            or message.address(Option.SERVER) is None
        ):
            return []
        if self.state is State.SELECTING:
            return self._on_offer(message, now)
        if message.type is MessageType.ACK:
            return self._on_ack(message, now)
        if message.type is MessageType.NAK:
            return self._on_nak(message, now)
        return []

    def hear(self, packet: ArpPacket, now: float) -> list[Action]:
        """Take an ARP packet from the network, while the address is being probed."""
        lease = self._lease
        if self.state is not State.PROBING or lease is None:
            return []
        if packet.claims(lease.address.ip, self._mac):
            return self._decline(lease, now)
        return []

    def _decline(self, lease: Lease, now: float) -> list[Action]:
        """Give an address back that somebody else has already."""
        options: dict[int, bytes] = {
            Option.REQUESTED_ADDRESS: lease.address.ip.packed,
            Option.SERVER: lease.server.packed,
            Option.CLIENT_ID: self._options[Option.CLIENT_ID],
        }
        declined = self._make(MessageType.DECLINE, options, self._new_xid())
        self._lease = None
        self._pause(now + _DECLINED_PAUSE)
        return [Send(declined)]

    # From nothing to a lease

    def _discover(self, now: float) -> list[Action]:
        options = {**self._options, Option.PARAMETERS: _WANTED}
        self._message = self._make(MessageType.DISCOVER, options, self._new_xid())
        self._began, self._sent, self._offer = now, 0, None
        self.state = State.SELECTING
        return self._send_and_wait(now)

    def _on_offer(self, offer: Message, now: float) -> list[Action]:
        # What nobody could use is not asked for: another server may have better.
        if offer.type is not MessageType.OFFER or Lease.read(offer, now) is None:
            return []
        # The first one: others are from the same network, and cost time.
        self._offer = offer
        options: dict[int, bytes] = {
            **self._options,
            Option.PARAMETERS: _WANTED,
            Option.REQUESTED_ADDRESS: offer.yours.packed,
            Option.SERVER: offer.options[Option.SERVER],
        }
        # As in the message that was answered: RFC 2131 section 4.4.1.
        secs = 0 if self._message is None else self._message.secs
        message = self._make(MessageType.REQUEST, options, offer.xid)
        self._message = replace(message, secs=secs)
        # An answer does not tell which of several requests it is for: the first counts.
        self._asked, self._sent = now, 0
        self.state = State.REQUESTING
        return self._send_and_wait(now)

    def _on_ack(self, ack: Message, now: float) -> list[Action]:
        lease = Lease.read(ack, self._asked)
        if lease is None or lease.expires <= now:
            return []
        if self._held:
            if self._lease is None or lease.address.ip != self._lease.address.ip:
                return []  # that is not what was asked for
            return self._bind(lease)
        offer = self._offer
        if offer is None or offer.yours != ack.yours or not self._is_offerers(ack):
            return []
        self._lease, self._sent = lease, 0
        self.state = State.PROBING
        return self._probe(now)

    def _on_nak(self, nak: Message, now: float) -> list[Action]:
        lease = self._lease
        if lease is None:
            if not self._is_offerers(nak):
                return []
            # A server that offers what it does not give shall not keep us busy.
            self._pause(now + self._delay(self._failures))
            self._failures += 1
            return []
        if self.state is State.RENEWING and nak.address(Option.SERVER) != lease.server:
            return []  # nobody else was asked
        text = f": {nak.text}" if nak.text else ""
        return [
            *self._lose(f"the server refuses the lease{text}"),
            *self._discover(now),
        ]

    def _is_offerers(self, answer: Message) -> bool:
        offer = self._offer
        asked = None if offer is None else offer.options.get(Option.SERVER)
        return answer.options.get(Option.SERVER) == asked

    def _probe(self, now: float) -> list[Action]:
        assert self._lease is not None
        if self._sent == _PROBES:
            return self._bind(self._lease)
        self._sent += 1
        self.deadline = min(now + _PROBE_PAUSE, self._lease.expires)
        return [Probe(self._lease.address.ip)]

    def _bind(self, lease: Lease) -> list[Action]:
        self._lease, self._held = lease, True
        self._message, self._failures = None, 0
        self.state, self.deadline = State.BOUND, lease.renew
        return [Bind(lease)]

    # From a lease to more time

    def _renew(self, now: float) -> list[Action]:
        lease = self._lease
        assert lease is not None
        if now >= lease.rebind:
            return self._rebind(now)
        self.state = State.RENEWING
        return self._ask_for_time(now, lease.renew, lease.rebind, lease.server)

    def _rebind(self, now: float) -> list[Action]:
        lease = self._lease
        assert lease is not None
        self.state = State.REBINDING
        return self._ask_for_time(now, lease.rebind, lease.expires, None)

    def _ask_for_time(
        self, now: float, begin: float, end: float, server: IPv4Address | None
    ) -> list[Action]:
        assert self._lease is not None
        # There is so much time in between that each request is for itself: it is known
        # then from when the new lease counts.
        address = self._lease.address.ip
        options = {**self._options, Option.PARAMETERS: _WANTED}
        xid = self._new_xid()
        self._message = self._make(MessageType.REQUEST, options, xid, client=address)
        self._asked = now
        pause = _SHORT_PAUSE if end - begin < _SHORT_PHASE else _RENEWAL_PAUSE
        self.deadline = min(now + max((end - now) / 2, pause), end)
        return [Send(self._message, address, server)]

    def _ask_again(self, now: float) -> list[Action]:
        """Ask whether the address is right here; RFC 2131 section 3.2."""
        assert self._lease is not None
        options: dict[int, bytes] = {
            **self._options,
            Option.PARAMETERS: _WANTED,
            Option.REQUESTED_ADDRESS: self._lease.address.ip.packed,
        }
        self._message = self._make(MessageType.REQUEST, options, self._new_xid())
        self._began = self._asked = now
        self._sent = 0
        self.state = State.REBOOTING
        return self._send_and_wait(now)

    # What is due

    def _on_requesting(self, now: float) -> list[Action]:
        if self._sent == _REQUESTS:
            return self._discover(now)
        return self._send_and_wait(now)

    def _on_rebooting(self, now: float) -> list[Action]:
        lease = self._lease
        assert lease is not None
        if self._sent < _REBOOTS:
            return self._send_and_wait(now)
        # Nobody says no, and it is ours until it expires.
        if now >= lease.renew:
            return self._renew(now)
        self._message = None
        self.state, self.deadline = State.BOUND, lease.renew
        return []

    # The parts of it

    def _send_and_wait(self, now: float) -> list[Action]:
        """Send the message (again), and wait longer from time to time."""
        assert self._message is not None
        if self.state is not State.REQUESTING:
            self._message = replace(self._message, secs=int(now - self._began))
        self.deadline = now + self._delay(self._sent)
        if self._lease is not None:
            self.deadline = min(self.deadline, self._lease.expires)
        self._sent += 1
        return [Send(self._message)]

    def _delay(self, attempt: int) -> float:
        delay = min(_FIRST_DELAY * 2.0 ** min(attempt, 10), _LONGEST_DELAY)
        spread = min(delay * _SPREAD, 1.0)
        return delay + spread * (2 * self._random() - 1)

    def _pause(self, until: float) -> None:
        self._message = self._offer = None
        self.state, self.deadline = State.INIT, until

    def _lose(self, cause: str) -> list[Action]:
        held, self._held, self._lease = self._held, False, None
        return [Lose(cause)] if held else []

    def _make(
        self,
        kind: MessageType,
        options: dict[int, bytes],
        xid: int,
        *,
        client: IPv4Address = _NOBODY,
    ) -> Message:
        whole: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes([kind]), **options}
        return Message(REQUEST, xid, self._mac, whole, client=client)
