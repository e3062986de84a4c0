"""Links of a stack: made, changed, taken away."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth import errors
from aioioth.errors import ConfigurationError
from aioioth.events import CarrierDown

if TYPE_CHECKING:
    from aioioth.iproute import Link

MAC = "02:00:00:00:00:01"


async def link(stack: aioioth.Stack, name: str) -> Link:
    [found] = [each for each in await stack.links() if each.name == name]
    return found


async def add_or_skip(stack: aioioth.Stack, name: str, kind: str, **told: Any) -> None:
    try:
        await stack.add_link(name, kind, **told)
    except errors.NetlinkError as error:
        if f"this kernel has no links of the kind {kind!r}" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("bridge", {}),
        ("dummy", {}),
        ("vlan", {"link": "vde0", "id": 5}),
        ("macvlan", {"link": "vde0", "mode": "bridge"}),
        ("vxlan", {"id": 7, "remote": "10.0.0.9", "port": 4790}),
        ("vxlan", {"id": 7, "group": "ff05::1", "dev": "vde0"}),
        ("vxlan", {"id": 7, "local": "10.0.0.1"}),
        ("ifb", {}),  # by pyroute2
        ("vrf", {"vrf_table": 7}),  # likewise
    ],
    ids=lambda value: str(value),
)
async def test_each_kind(kind: str, told: dict[str, Any]) -> None:
    async with aioioth.Stack("null://", ip=["10.0.0.1/24", "fd00::1/64"]) as stack:
        await add_or_skip(stack, "new0", kind, mac=MAC, mtu=1400, **told)
        found = await link(stack, "new0")
        assert (found.kind, found.mac, found.mtu) == (kind, MAC, 1400)
        assert found.parent == told.get("link")
        await stack.del_link("new0")
        assert [each.name for each in await stack.links()] == ["lo", "vde0"]


async def test_veth() -> None:
    async with aioioth.Stack() as stack:
        await stack.add_link("left", "veth", peer="right", up=True)
        left, right = await link(stack, "left"), await link(stack, "right")
        assert (left.parent, right.parent) == ("right", "left")
        assert (left.up, left.carrier, right.up) == (True, False, False)
        await stack.set_link("right", up=True)
        assert (await link(stack, "left")).carrier
        await stack.del_link("left")
        assert [each.name for each in await stack.links()] == ["lo"]


async def test_a_bridge_and_its_ports() -> None:
    async with aioioth.Stack("null://") as stack:
        await stack.add_link("br0", "bridge", up=True)
        await stack.add_link("left", "veth", peer="right", master="br0")
        assert (await link(stack, "left")).master == "br0"
        await stack.set_link("vde0", master="br0")
        assert (await link(stack, "vde0")).master == "br0"
        await stack.set_link("left", nomaster=True)
        assert (await link(stack, "left")).master is None


async def test_set() -> None:
    async with aioioth.Stack("null://") as stack:
        await stack.add_link("left", "veth", peer="right")
        await stack.set_link("left", name="new", mtu=1300, mac=MAC, up=True)
        found = await link(stack, "new")
        assert (found.mtu, found.mac, found.up) == (1300, MAC, True)
        await stack.set_link("new", up=False)
        assert not (await link(stack, "new")).up


async def test_an_interface(device: str) -> None:
    async with aioioth.Stack("null://", device=device) as stack:
        interface = stack.interfaces["vde0"]
        await interface.set_mtu(1300)
        await interface.set_mac(MAC)
        assert (interface.mtu, interface.mac) == (1300, MAC)
        await interface.down()
        assert not (await link(stack, "vde0")).up
        await interface.up()
        await interface.wait_carrier(20)
        found = await link(stack, "vde0")
        assert (found.up, found.carrier) == (True, True)
        with pytest.raises(errors.ConfigurationError, match="six bytes"):
            await interface.set_mac("nonsense")
        with pytest.raises(errors.NetlinkError, match="ip link set vde0 mtu 9999999"):
            await interface.set_mtu(9999999)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.add_link("t0", "tun"), "come from VNLs: use add_interface"),
        (lambda s: s.add_link("t0", "tuntap", mode="tap"), "use add_interface"),
        (lambda s: s.add_link("v0", "veth"), "'peer'"),
        (lambda s: s.add_link("v0", "veth", peer="a/b"), "'a/b' cannot be"),
        (lambda s: s.add_link("v0", "vlan", link="vde0"), "'id'"),
        (lambda s: s.add_link("b0", "bridge", stp=1), "'stp'"),
        (lambda s: s.add_link("m0", "macvlan", link="vde0", mode="x"), "mode='x'"),
        (lambda s: s.add_link("x" * 16, "bridge"), "1 to 15 bytes"),
        (lambda s: s.add_link("", "bridge"), "1 to 15 bytes"),
        (lambda s: s.add_link("v0", "vlan", link="vde0", id=4095), "id=4095"),
        (lambda s: s.add_link("v0", "vxlan", id=-1), "id=-1"),
        (lambda s: s.add_link("v0", "vxlan", id=1, port=1 << 16), "port=65536"),
        (lambda s: s.add_link("v0", "vxlan", id=1, remote="x"), "remote 'x'"),
        (lambda s: s.set_link("vde0", mtu=-1), "mtu=-1"),
        (lambda s: s.set_link("vde0", mtu=1 << 31), "mtu=2147483648"),
        (lambda s: s.interfaces["vde0"].set_mtu(-1), "mtu=-1"),
        (lambda s: s.add_link("b0", "bridge", mac="x"), "mac='x'"),
        (lambda s: s.del_link("vde0"), "use remove_interface"),
        (lambda s: s.set_link("lo", name=""), "1 to 15 bytes"),
        (lambda s: s.set_link("lo", master="b0", nomaster=True), "either master="),
    ],
)
async def test_what_cannot_be_right(call: Any, text: str) -> None:
    async with aioioth.Stack("null://") as stack:
        with pytest.raises(errors.ConfigurationError) as caught:
            await call(stack)
        assert text in str(caught.value)
        assert [each.name for each in await stack.links()] == ["lo", "vde0"]


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        (lambda s: s.add_link("vde0", "bridge"), errno.EEXIST,
         "ip link add vde0 type bridge: File exists"),
        (lambda s: s.add_link("x0", "nonsense", mtu=1400), errno.EOPNOTSUPP,
         "ip link add x0 mtu 1400 type nonsense: Operation not supported (this kernel"),
        (lambda s: s.add_link("m0", "macvlan", link="nope"), errno.ENODEV,
         "ip link add m0 link nope type macvlan: No such device"),
        (lambda s: s.del_link("nope"), errno.ENODEV, "ip link del nope: No such"),
        (lambda s: s.del_link("lo"), errno.EOPNOTSUPP, "ip link del lo: "),
        (lambda s: s.set_link("nope", up=True), errno.ENODEV,
         "ip link set nope up: No such device"),
        (lambda s: s.set_link("vde0", master="lo"), errno.EOPNOTSUPP,
         "ip link set vde0 master lo: "),
    ],
)  # fmt: skip
async def test_refused(call: Any, code: int, text: str) -> None:
    async with aioioth.Stack("null://") as stack:
        with pytest.raises(errors.NetlinkError) as caught:
            await call(stack)
        assert caught.value.errno == code
        assert text in str(caught.value)


async def test_one_that_is_gone() -> None:
    async with aioioth.Stack("null://") as stack:
        interface = stack.interfaces["vde0"]
        await stack.remove_interface("vde0")
        for call in interface.up, interface.down, interface.addresses:
            with pytest.raises(errors.NetlinkError) as caught:
                await call()
            assert caught.value.errno == errno.ENODEV
        with pytest.raises(errors.ClosedError, match="interface vde0"):
            await interface.wait_carrier()
    for call in interface.up, interface.addresses, interface.wait_carrier:
        with pytest.raises(errors.ClosedError):
            await call()


@pytest.mark.parametrize("vnl", ["memory://lan", "bridge://lan"])
async def test_an_interface_gets_another_name(vnl: str) -> None:
    async with aioioth.Stack(vnl, "eth1:null://", ip="10.0.0.1/24") as stack:
        await stack.configure("ip=10.0.0.2/24")
        await stack.set_link("vde0", up=False)  # older kernels want that
        await stack.set_link("vde0", name="uplink")
        await stack.set_link("uplink", up=True)
        assert list(stack.interfaces) == ["uplink", "eth1"]
        assert list(stack.stats()) == ["uplink", "eth1"]
        interface = stack.interfaces["uplink"]
        assert interface.name == "uplink"
        events = stack.events(CarrierDown)
        await interface.set_carrier(False)
        assert await anext(events) == CarrierDown("uplink", "pulled out")
        await interface.set_carrier(True)
        # What was given by hand is known by the new name, too.
        await stack.configure("iface=uplink,-static")
        assert not [
            a for a in await stack.addresses("uplink") if a.address.version == 4
        ]
        # The old name is free, and the new one is not.
        await stack.add_interface("null://", "vde0")
        with pytest.raises(ConfigurationError, match="used already"):
            await stack.add_interface("null://", "uplink")
        await stack.remove_interface("uplink")
        assert list(stack.interfaces) == ["eth1", "vde0"]


async def test_names_that_an_interface_cannot_get() -> None:
    async with aioioth.Stack("null://", "eth1:null://") as stack:
        with pytest.raises(ConfigurationError, match="eth1: there is one already"):
            await stack.set_link("vde0", name="eth1")
        await stack.configure("dhcp", timeout=0)
        with pytest.raises(ConfigurationError, match=r"configure\('-dhcp'\) first"):
            await stack.set_link("vde0", name="uplink")
        async with aioioth.Stack.attach(stack.share()) as guest:
            with pytest.raises(ConfigurationError, match="by the process that made"):
                await guest.set_link("vde0", name="uplink")
