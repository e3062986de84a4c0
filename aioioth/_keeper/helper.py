"""The keeper program: makes namespaces and hands out descriptors.

Run by ``client.py`` as ``python -I -S helper.py SOCKET [USER_NAMESPACE]``, both being
inherited descriptors. It makes one user namespace (or joins the given one), serves
requests until the other end of SOCKET is closed, and exits. It never opens anything in
the host's network namespace.

Each channel has a thread: making a namespace or a TAP may wait for a kernel lock (the
routing lock is held for tens of milliseconds while a TAP is torn down), and a socket on
another channel must not wait with it.

Source:
    user_namespaces(7), network_namespaces(7), unix(7);
    Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  (pathlib would double the start-up time)

import meeting
import messages
import orders

# <linux/sched.h>, Linux 6.1
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
# <linux/if_tun.h>, <linux/if.h>, <linux/sockios.h>, Linux 6.1
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
_IFREQ_FLAGS = struct.Struct("16sH22x")

# Nobody waits for it.
_CLOSING_SECONDS = 0.02

# To leave what we share with other programs.
_LEAVING_SECONDS = 1.5


class StepError(Exception):
    """A system call failed; ``step`` says what it was for."""

    def __init__(self, error: OSError, step: str) -> None:
        super().__init__(step)
        self.errno = error.errno or errno.EIO
        self.step = step


if hasattr(os, "unshare"):
    unshare, setns = os.unshare, os.setns  # type: ignore[attr-defined]  # 3.12
else:  # Python 3.11
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)

    def _checked(result: int) -> None:
        if result:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def unshare(flags: int) -> None:
        """Leave namespaces; see the system call."""
        _checked(_libc.unshare(flags))

    def setns(descriptor: int, kind: int) -> None:
        """Enter a namespace; see the system call."""
        _checked(_libc.setns(descriptor, kind))


def _write(path: str, text: str, step: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StepError(error, step) from None


def _set(path: str, value: str, step: str) -> None:
    """Write a sysctl unless it is so: what a write sets off takes longer."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123
            is_so = file.read().strip() == value
    except OSError:
        is_so = False
    if not is_so:
        _write(path, value, step)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123
        return file.read()


def make_user_namespace() -> int | None:
    """Enter a user namespace of our own that maps ids to themselves.

    All of them for root, so that files keep their owners and a program can change to
    another user; for others their own alone.

    Returns:
        Its descriptor, or None when user namespaces are refused but the privileges
        at hand make network namespaces without one.

    Raises:
        StepError: The kernel refused.
    """
    uid, gid = os.geteuid(), os.getegid()
    mapper = _Mapper() if uid == 0 else None
    try:
        unshare(CLONE_NEWUSER)
    except OSError as error:
        if mapper is not None:
            mapper.end()
        try:
            unshare(CLONE_NEWNET)
        except OSError:
            raise StepError(error, "user namespace") from None
        return None
    if mapper is not None:
        mapper.map_all()
    # What root's privileges did not suffice for. One line that maps the writer's own
    # id needs none (user_namespaces(7)).
    if not _read("/proc/self/uid_map"):
        _write("/proc/self/uid_map", f"{uid} {uid} 1", "id map")
    if not _read("/proc/self/gid_map"):
        _write("/proc/self/setgroups", "deny", "id map")
        _write("/proc/self/gid_map", f"{gid} {gid} 1", "id map")
    return os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)


class _Mapper:
    """A child that stays outside of our user namespace, to map all ids into it.

    Only somebody who has CAP_SETUID and CAP_SETGID outside may do that. It has to be
    made before the namespace is.
    """

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writing)
            # Nothing to read: the keeper has no namespace, or was killed.
            if os.read(reading, 1):
                self._write_maps(f"/proc/{os.getppid()}")
            os._exit(0)
        os.close(reading)

    @staticmethod
    def _write_maps(process: str) -> None:
        for name in ("uid_map", "gid_map"):
            # Each line maps a range; what is inside for us is outside for the keeper.
            ranges = [line.split() for line in _read(f"/proc/self/{name}").splitlines()]
            lines = [f"{first} {first} {count}" for first, _, count in ranges]
            try:
                _write(f"{process}/{name}", "\n".join(lines), "id map")
            except StepError:
                return  # the keeper sees it

    def map_all(self) -> None:
        """Let the child write the maps, as far as it may, and wait for it."""
        os.write(self._writing, b"!")
        self.end()

    def end(self) -> None:
        """Let the child end, and collect it."""
        os.close(self._writing)
        os.waitpid(self._pid, 0)


class Keeper:
    """State of the program: a user namespace, and an empty network namespace as home.

    A thread goes home after each request. It would otherwise keep the last stack's
    namespace alive.
    """

    def __init__(self, user_namespace: int | None) -> None:
        self.failure: StepError | None = None
        # What operations do; the second kind inside of the first descriptor.
        self._anywhere = {
            messages.USER_NAMESPACE: self._tell_user_namespace,
            messages.NETWORK_NAMESPACE: self._stack_namespace,
            messages.ORDERS: self._orders,
            messages.MEETING: self._meet,
            messages.CLOSE: self._close_soon,
        }
        self._inside = {
            messages.SOCKET: self._sockets,
            messages.TAP: self._tap,
            messages.SYSCTL: self._sysctl,
            messages.OPEN_SYSCTL: self._open_sysctl,
        }
        self.user_namespace = user_namespace
        try:
            if user_namespace is None:
                self.user_namespace = make_user_namespace()
            else:
                self._join(user_namespace)
            self.home = self._new_network_namespace()
        except StepError as failure:
            self.failure = failure  # told to everyone who asks for anything

    @staticmethod
    def _join(user_namespace: int) -> None:
        try:
            setns(user_namespace, CLONE_NEWUSER)
        except OSError as error:
            raise StepError(error, "joining the user namespace") from None

    @staticmethod
    def _new_network_namespace() -> int:
        try:
            unshare(CLONE_NEWNET)
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StepError(error, "network namespace") from None

    def serve(self, channel: socket.socket) -> None:
        """Answer requests until the other end of ``channel`` is closed."""
        while True:
            try:
                message, received = messages.receive(channel)
            except ConnectionResetError:
                return
            if not message:
                return
            try:
                self._answer(channel, message, received)
            except (BrokenPipeError, ConnectionResetError):
                return
            finally:
                for descriptor in received:
                    os.close(descriptor)

    def _answer(
        self, channel: socket.socket, message: bytes, received: list[int]
    ) -> None:
        version, operation, sequence, body = messages.unpack_request(message)
        if operation == messages.CHANNEL and version == messages.VERSION:
            self._start_channel(received[0])
            return
        made: list[int] = []
        try:
            self._check(version)
            made = self._perform(operation, body, received)
            reply = messages.pack_reply(sequence)
        except StepError as failure:
            reply = messages.pack_reply(sequence, failure.errno, failure.step.encode())
        if self.failure is None:
            # Before the reply: who has it may look where we are, and let go of a stack.
            setns(self.home, CLONE_NEWNET)
        try:
            if made:
                messages.send(channel, messages.PARCEL, made)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError:  # ETOOMANYREFS: more than RLIMIT_NOFILE are under way
            reply = messages.pack_reply(sequence, errno.EMFILE, b"socket")
        finally:
            messages.close_all([each for each in made if each != self.user_namespace])
        if sequence != messages.NO_ANSWER:
            messages.send(channel, reply, ())

    def _check(self, version: int) -> None:
        if version != messages.VERSION:
            raise StepError(OSError(errno.EPROTO, ""), "protocol version")
        if self.failure is not None:
            raise self.failure

    def _start_channel(self, descriptor: int) -> None:
        channel = socket.socket(fileno=os.dup(descriptor))
        threading.Thread(target=self._serve_channel, args=[channel]).start()

    def _serve_channel(self, channel: socket.socket) -> None:
        with channel:
            self.serve(channel)

    def _perform(self, operation: int, body: bytes, received: list[int]) -> list[int]:
        if operation in self._anywhere:
            return self._anywhere[operation](body, received)
        if operation not in self._inside:
            raise StepError(OSError(errno.ENOSYS, ""), f"operation {operation}")
        try:
            setns(received[0], CLONE_NEWNET)
        except OSError as error:
            raise StepError(error, "entering a network namespace") from None
        return self._inside[operation](body)

    def _tell_user_namespace(self, _: bytes, __: list[int]) -> list[int]:
        return [] if self.user_namespace is None else [self.user_namespace]

    def _stack_namespace(self, body: bytes, _: list[int]) -> list[int]:
        namespace = self._new_network_namespace()
        try:
            self._loopback_up()
            self._sysctl(body)
        except StepError:
            os.close(namespace)
            raise
        return [namespace]

    @staticmethod
    def _meet(body: bytes, received: list[int]) -> list[int]:
        try:
            meeting.start(received, body.decode())
        except OSError as error:
            raise StepError(error, "meeting other programs") from None
        return []

    @staticmethod
    def _orders(body: bytes, namespaces: list[int]) -> list[int]:
        def open_socket(where: int) -> socket.socket:
            setns(namespaces[where], CLONE_NEWNET)
            return socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE
            )

        try:
            orders.perform(orders.unpack(body), open_socket, namespaces)
        except orders.RefusedError as error:
            step = f"{messages.ORDER} {error.number} {error.text}"
            raise StepError(error, step) from None
        return []

    @staticmethod
    def _close_soon(_: bytes, received: list[int]) -> list[int]:
        copies = [os.dup(descriptor) for descriptor in received]
        try:
            threading.Thread(target=_close_later, args=[copies], daemon=True).start()
        except RuntimeError:  # can't start new thread
            _close_later(copies)
        return []

    @staticmethod
    def _sockets(body: bytes) -> list[int]:
        """Return one socket at least, and as many more as there can be."""
        family, kind, protocol, count = messages.unpack_socket(body)
        made: list[int] = []
        try:
            while len(made) < count:
                made.append(_socket.socket(family, kind, protocol).detach())
        except OSError as error:
            if not made:
                raise StepError(error, "socket") from None
        return made

    @staticmethod
    def _tap(name: bytes) -> list[int]:
        try:
            descriptor = os.open(
                "/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
            )
        except OSError as error:
            raise StepError(error, "opening /dev/net/tun") from None
        try:
            request = _IFREQ_FLAGS.pack(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
            fcntl.ioctl(descriptor, TUNSETIFF, request)
        except OSError as error:
            os.close(descriptor)
            raise StepError(error, "TAP interface") from None
        return [descriptor]

    @staticmethod
    def _loopback_up() -> None:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                request = _IFREQ_FLAGS.pack(b"lo", IFF_UP)
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
        except OSError as error:
            raise StepError(error, "ip link set lo up") from None

    @staticmethod
    def _sysctl(lines: bytes) -> list[int]:
        """Write ``name=value`` lines; a name with ``?`` in front may be missing."""
        for line in lines.decode().splitlines():
            name, _, value = line.removeprefix("?").partition("=")
            try:
                _set(f"/proc/sys/{name}", value, f"sysctl {name}={value}")
            except StepError as failure:
                if not (line.startswith("?") and failure.errno == errno.ENOENT):
                    raise
        return []

    @staticmethod
    def _open_sysctl(name: bytes) -> list[int]:
        """Open the file; it stays the namespace's wherever it is read."""
        path = f"/proc/sys/{name.decode()}"
        try:
            return [os.open(path, os.O_RDONLY | os.O_CLOEXEC)]
        except OSError as error:
            raise StepError(error, f"sysctl {name.decode()}") from None


def _close_later(descriptors: list[int]) -> None:
    """Close descriptors when whoever sent them has closed his; may take a while."""
    time.sleep(_CLOSING_SECONDS)
    messages.close_all(descriptors)


def main() -> None:
    """Serve the program on the other end of the inherited socket."""
    program = socket.socket(fileno=int(sys.argv[1]))
    user_namespace = int(sys.argv[2]) if len(sys.argv) > 2 else None
    Keeper(user_namespace).serve(program)
    # The program is gone, or wants us gone. Threads of other channels may be inside a
    # system call; nothing of theirs is worth waiting for.
    meeting.end_all(_LEAVING_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
