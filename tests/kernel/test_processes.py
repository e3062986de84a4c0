"""Programs in a stack: asyncio's `Process`, and what the program sees and may do."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import select
import signal
import socket
import subprocess
import sys
import textwrap
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aioioth
from aioioth.errors import ClosedError, ConfigurationError
from aioioth.testing import no_leaks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

NETWORK_CAPABILITIES = "0000000000003c00"


@pytest.fixture
async def stack() -> AsyncIterator[aioioth.Stack]:
    async with aioioth.Stack("memory://lan", ip="10.0.0.1/24", name="web") as opened:
        yield opened


async def output(stack: aioioth.Stack, *command: Any, **kwds: Any) -> str:
    """What a program in the stack prints; it must succeed and say nothing else."""
    process = await stack.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, **kwds
    )
    out, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    return out.decode()


# The Process is asyncio's


async def test_communicate(stack: aioioth.Stack) -> None:
    process = await stack.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert type(process) is asyncio.subprocess.Process
    assert process.returncode is None
    much = os.urandom(1 << 20)  # more than any pipe holds
    assert (await process.communicate(much))[0] == much
    assert process.returncode == 0


async def test_streams(stack: aioioth.Stack) -> None:
    process = await stack.create_subprocess_exec(
        "sh", "-c", "read line; echo got $line; echo bad >&2; exit 3",
        stdin=PIPE, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(b"hello\n")
    await process.stdin.drain()
    assert await process.stdout.readline() == b"got hello\n"
    assert await process.stderr.read() == b"bad\n"
    assert await process.wait() == 3


async def test_the_pid_is_the_programs(stack: aioioth.Stack) -> None:
    process = await stack.create_subprocess_exec("sh", "-c", "echo $$", stdout=PIPE)
    out, _ = await process.communicate()
    assert int(out) == process.pid


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (asyncio.subprocess.Process.kill, -signal.SIGKILL),
        (asyncio.subprocess.Process.terminate, -signal.SIGTERM),
        (lambda process: process.send_signal(signal.SIGUSR1), -signal.SIGUSR1),
    ],
    ids=["kill", "terminate", "send_signal"],
)
async def test_signals_end_it(stack: aioioth.Stack, end: Any, status: int) -> None:
    process = await stack.create_subprocess_exec("sleep", "1000")
    end(process)
    assert await process.wait() == status
    with pytest.raises(ProcessLookupError):
        process.send_signal(signal.SIGTERM)


async def test_standard_streams(stack: aioioth.Stack, tmp_path: Path) -> None:
    written = tmp_path / "written"
    with written.open("wb") as file:
        process = await stack.create_subprocess_exec(
            "sh", "-c", "cat; echo out; echo err >&2",
            stdin=DEVNULL, stdout=file, stderr=STDOUT,
        )  # fmt: skip
        assert await process.wait() == 0
    assert written.read_text() == "out\nerr\n"


async def test_shell(stack: aioioth.Stack) -> None:
    process = await stack.create_subprocess_shell("echo $0 | tr a-z A-Z", stdout=PIPE)
    assert (await process.communicate())[0] == b"/BIN/SH\n"
    process = await stack.create_subprocess_shell(
        b"echo $0", stdout=PIPE, executable="/bin/bash"
    )
    assert (await process.communicate())[0] == b"/bin/bash\n"


async def test_many_at_once(stack: aioioth.Stack) -> None:
    numbers = [str(number) for number in range(8)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(output(stack, "echo", each)) for each in numbers]
    assert [task.result() for task in tasks] == [f"{each}\n" for each in numbers]


async def test_long_arguments(stack: aioioth.Stack) -> None:
    long = "x" * 100_000  # more than a pipe holds; the kernel takes 128 KiB
    assert await output(stack, "echo", long) == f"{long}\n"


async def test_the_hosts_own_stack() -> None:
    async with aioioth.Stack(kind="kernel") as stack:
        here = os.readlink("/proc/self/ns/net")
        assert await output(stack, "readlink", "/proc/self/ns/net") == f"{here}\n"
        process = await stack.create_subprocess_shell("exit 4")
        assert await process.wait() == 4


async def test_not_open() -> None:
    stack = aioioth.Stack()
    with pytest.raises(ClosedError):
        await stack.create_subprocess_exec("true")


# The same errors as asyncio's


async def failure(attempt: Callable[[Any], Awaitable[Any]], at: Any) -> str:
    """The exception that an attempt raises, with all that it carries."""
    with pytest.raises((OSError, ValueError, TypeError, KeyError)) as caught:
        await attempt(at)
    error = caught.value
    about = (error.errno, error.filename) if isinstance(error, OSError) else ()
    return f"{type(error).__name__} {error} {about}"


PIPES = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}

FAILING = {
    "not in PATH": lambda at: at.create_subprocess_exec(
        "there-is-no-such", env={"PATH": "/usr/bin:/bin"}, **PIPES
    ),
    "no such path": lambda at: at.create_subprocess_exec("/there/is/no/such", **PIPES),
    "a path object": lambda at: at.create_subprocess_exec(Path("/there/is/no/such")),
    "bytes": lambda at: at.create_subprocess_exec(b"/there/is/no/such"),
    "no name": lambda at: at.create_subprocess_exec("", env={"PATH": "/usr/bin"}),
    "not executable": lambda at: at.create_subprocess_exec("/etc/passwd", **PIPES),
    "a directory": lambda at: at.create_subprocess_exec("/etc"),
    "below a file": lambda at: at.create_subprocess_exec("/etc/passwd/program"),
    "no program": lambda at: at.create_subprocess_exec("./script", cwd="FOLDER"),
    "executable": lambda at: at.create_subprocess_exec("sh", executable="/no/such"),
    "no such shell": lambda at: at.create_subprocess_shell("", executable="/no/such"),
    "no such cwd": lambda at: at.create_subprocess_exec("true", cwd="/no/such"),
    "cwd is a file": lambda at: at.create_subprocess_exec(
        "true", cwd=Path("/etc/passwd")
    ),
    "arguments too long": lambda at: at.create_subprocess_exec("true", "x" * 200_000),
    "null in an argument": lambda at: at.create_subprocess_exec("true", "a\0b"),
    "null in the program": lambda at: at.create_subprocess_exec("a\0b"),
    "null in cwd": lambda at: at.create_subprocess_exec("true", cwd="/a\0b"),
    "no argument": lambda at: at.create_subprocess_exec("true", 7),
    "an odd environment": lambda at: at.create_subprocess_exec("true", env={"A=": "b"}),
    "null in env": lambda at: at.create_subprocess_exec("true", env={"A": "b\0"}),
    "shell": lambda at: at.create_subprocess_exec("true", shell=True),
    "no shell": lambda at: at.create_subprocess_shell("true", shell=False),
    "no command": lambda at: at.create_subprocess_shell(["true"]),
    "newlines": lambda at: at.create_subprocess_exec("true", universal_newlines=True),
    "text": lambda at: at.create_subprocess_exec("true", text=True),
    "encoding": lambda at: at.create_subprocess_exec("true", encoding="ascii"),
    "errors": lambda at: at.create_subprocess_exec("true", errors="strict"),
    "bufsize": lambda at: at.create_subprocess_exec("true", bufsize=1),
    "flags": lambda at: at.create_subprocess_exec("true", creationflags=1),
    "startupinfo": lambda at: at.create_subprocess_exec("true", startupinfo=object()),
    "unknown": lambda at: at.create_subprocess_exec("true", colour="red"),
    "closed descriptor": lambda at: at.create_subprocess_exec("true", pass_fds=[999]),
    "no descriptor": lambda at: at.create_subprocess_exec("true", pass_fds=[-1]),
    "no such user": lambda at: at.create_subprocess_exec("true", user="nobody-here"),
    "no user": lambda at: at.create_subprocess_exec("true", user=1.5),
    "negative user": lambda at: at.create_subprocess_exec("true", user=-1),
    "no such group": lambda at: at.create_subprocess_exec("true", group="nobody-here"),
    "negative group": lambda at: at.create_subprocess_exec("true", group=-1),
    "groups": lambda at: at.create_subprocess_exec("true", extra_groups="users"),
    "process group": lambda at: at.create_subprocess_exec("true", process_group=1),
    "umask": lambda at: at.create_subprocess_exec("true", umask="022"),
}


async def test_errors_are_asyncios(
    stack: aioioth.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file without a format that the kernel knows.
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "script").write_text("exit\n")
    (tmp_path / "FOLDER" / "script").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    await output(stack, "true")  # libuv keeps a descriptor after a loop's first pipe

    async def on_asyncio() -> dict[str, str]:
        return {name: await failure(each, asyncio) for name, each in FAILING.items()}

    # Plain asyncio is the specification on every loop.
    expected = await asyncio.to_thread(asyncio.run, on_asyncio())
    found = {}
    for name, attempt in FAILING.items():
        with no_leaks():
            found[name] = await failure(attempt, stack)
    assert found == expected


async def test_another_user_is_for_root(stack: aioioth.Stack) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may change to another user")
    for wish in ({"user": 0}, {"group": 0}, {"extra_groups": [0]}):
        with pytest.raises(PermissionError) as caught:
            await stack.create_subprocess_exec("true", **wish)
        assert caught.value.filename is None


async def test_close_fds_cannot_be_off(stack: aioioth.Stack) -> None:
    with pytest.raises(ValueError, match="name in pass_fds the descriptors"):
        await stack.create_subprocess_exec("true", close_fds=False)


# The rest of subprocess's arguments


async def test_cwd_umask_session(stack: aioioth.Stack, tmp_path: Path) -> None:
    assert await output(stack, "pwd", cwd=tmp_path) == f"{tmp_path}\n"
    assert await output(stack, "sh", "-c", "umask", umask=0o27) == "0027\n"
    show = "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())"
    python = [sys.executable, "-c", show]
    assert await output(stack, *python) == "False False\n"
    assert await output(stack, *python, start_new_session=True) == "True True\n"
    assert await output(stack, *python, process_group=0) == "False True\n"


async def test_executable(stack: aioioth.Stack) -> None:
    print_name = ["another name", "-c", "echo $0"]
    assert await output(stack, *print_name, executable="/bin/sh") == "another name\n"


async def test_a_relative_program(stack: aioioth.Stack, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    assert await output(stack, "./program", cwd=tmp_path) == "here\n"
    assert await output(stack, "program", env={"PATH": f"/no:{tmp_path}"}) == "here\n"


async def test_the_environment(stack: aioioth.Stack) -> None:
    given = {"A": "b", "EMPTY": "", "ODD": "\udcff=x", "PATH": os.defpath}
    process = await stack.create_subprocess_exec("env", "-0", env=given, stdout=PIPE)
    out, _ = await process.communicate()
    expected = [os.fsencode(f"{name}={value}") for name, value in given.items()]
    assert out.split(b"\0")[:-1] == expected
    process = await stack.create_subprocess_exec("/usr/bin/env", "-0", stdout=PIPE)
    out, _ = await process.communicate()
    expected = [name + b"=" + value for name, value in os.environb.items()]
    assert sorted(out.split(b"\0")[:-1]) == sorted(expected)
    process = await stack.create_subprocess_exec("/usr/bin/env", env={}, stdout=PIPE)
    assert (await process.communicate())[0] == b""


async def test_descriptors(stack: aioioth.Stack) -> None:
    # The listing's own descriptor is the next free one.
    listed = "import os; print(*sorted(os.listdir('/proc/self/fd'), key=int))"
    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, True)  # what uvloop would pass on
        assert await output(stack, sys.executable, "-c", listed) == "0 1 2 3\n"
        wanted = f"0 1 2 3 {reading}\n" if reading > 3 else "0 1 2 3 4\n"
        found = await output(stack, sys.executable, "-c", listed, pass_fds=[reading])
        assert found == wanted
        write = f"import os; os.write({writing}, b'passed')"
        await output(stack, sys.executable, "-c", write, pass_fds=[writing])
        assert os.read(reading, 100) == b"passed"
    finally:
        os.close(reading)
        os.close(writing)


SIGNALS = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]


def ignore_some() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


@pytest.mark.parametrize(
    "kwds",
    [{}, {"restore_signals": False}, {"preexec_fn": ignore_some}],
    ids=["restored", "as they are", "preexec_fn"],
)
async def test_signals_are_as_with_asyncio(stack: aioioth.Stack, kwds: Any) -> None:
    async def on_host() -> str:
        process = await asyncio.create_subprocess_exec(*SIGNALS, stdout=PIPE, **kwds)
        out, _ = await process.communicate()
        return out.decode()

    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        expected = await asyncio.to_thread(asyncio.run, on_host())
        found = await output(stack, *SIGNALS, **kwds)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert found == expected
    ignored = int(found.splitlines()[1].split()[1], 16)
    assert ignored & 1 << signal.SIGUSR2 - 1


# What a program sees


async def test_interfaces(stack: aioioth.Stack) -> None:
    found = json.loads(await output(stack, "ip", "-j", "addr"))
    assert [each["ifname"] for each in found] == ["lo", "vde0"]
    addresses = [each["local"] for each in found[1]["addr_info"]]
    assert addresses == ["10.0.0.1"]


async def test_sysfs(stack: aioioth.Stack) -> None:
    found = (await output(stack, "ls", "/sys/class/net")).split()
    if found == os.listdir("/sys/class/net"):
        pytest.skip("this kernel does not let us mount a sysfs")
    assert found == ["lo", "vde0"]
    read = await output(stack, "cat", "/sys/class/net/vde0/mtu")
    assert read == "1500\n"


async def test_names() -> None:
    before = [Path(name).read_bytes() for name in ("/etc/hosts", "/etc/nsswitch.conf")]
    mounts, hostname = Path("/proc/self/mountinfo").read_text(), socket.gethostname()
    async with aioioth.Stack(
        "memory://lan",
        ip=["10.0.0.1/24", "fd00::1/64"],
        name="my web/1",
        hosts={"db.lan": "10.0.0.9"},
        dns="10.0.0.53",
        domain="example.org",
    ) as stack:
        assert await output(stack, "hostname") == "my-web-1\n"
        hosts = (await output(stack, "cat", "/etc/hosts")).splitlines()
        assert hosts == [*stack.hosts.render().splitlines(), "10.0.0.1 my-web-1"]
        resolv = (await output(stack, "cat", "/etc/resolv.conf")).splitlines()
        assert "nameserver 10.0.0.53" in resolv
        assert "search example.org" in resolv
        switch = (await output(stack, "cat", "/etc/nsswitch.conf")).splitlines()
        assert [each for each in switch if each.startswith("hosts:")] == [
            "hosts: files dns"
        ]
        assert [each for each in switch if each.startswith("passwd:")] == [
            each
            for each in Path("/etc/nsswitch.conf").read_text().splitlines()
            if each.startswith("passwd:")
        ]
        for name, address in [
            ("db.lan", "10.0.0.9"),
            ("my-web-1", "10.0.0.1"),
        ]:
            # Not "getent hosts", which asks for an IPv6 address first, of DNS too.
            found = await output(stack, "getent", "ahostsv4", name)
            assert found.split()[:3] == [address, "STREAM", name]
        stack.hosts["later"] = "10.0.0.8"  # seen by what is started later
        assert "10.0.0.8" in await output(stack, "getent", "ahostsv4", "later")
    assert before == [
        Path(name).read_bytes() for name in ("/etc/hosts", "/etc/nsswitch.conf")
    ]
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert socket.gethostname() == hostname


@pytest.mark.parametrize(
    ("name", "hostname"),
    [("web", "web"), ("Ä--", "stack"), ("-a.b_c-", "a-b-c"), ("x" * 80, "x" * 63)],
)
async def test_host_names(name: str, hostname: str) -> None:
    async with aioioth.Stack(name=name) as stack:
        assert await output(stack, "hostname") == f"{hostname}\n"
        found = await output(stack, "getent", "hosts", hostname)
        assert found.split() == ["127.0.1.1", hostname]


async def test_files_are_readable_with_any_umask(stack: aioioth.Stack) -> None:
    before = os.umask(0o077)
    try:
        modes = await output(stack, "stat", "-c%a", "/etc/hosts", "/etc/resolv.conf")
    finally:
        os.umask(before)
    assert modes == "644\n644\n"


# What a program may do


async def test_capabilities(stack: aioioth.Stack) -> None:
    status = await output(stack, "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["CapAmb"] == NETWORK_CAPABILITIES
    assert fields["CapInh"] == NETWORK_CAPABILITIES
    if os.geteuid():
        assert fields["CapEff"] == NETWORK_CAPABILITIES
        assert fields["CapPrm"] == NETWORK_CAPABILITIES


async def test_who_it_is(stack: aioioth.Stack) -> None:
    assert await output(stack, "id", "-u") == f"{os.geteuid()}\n"
    assert await output(stack, "id", "-g") == f"{os.getegid()}\n"


async def test_configuring_the_stack(stack: aioioth.Stack) -> None:
    await output(stack, "ip", "addr", "add", "10.0.7.1/24", "dev", "vde0")
    await output(stack, "ip", "link", "add", "one", "type", "veth", "peer", "two")
    found = json.loads(await output(stack, "ip", "-j", "addr"))
    assert [each["ifname"] for each in found] == ["lo", "vde0", "two", "one"]
    assert [each["local"] for each in found[1]["addr_info"]] == ["10.0.0.1", "10.0.7.1"]


async def test_ping(stack: aioioth.Stack) -> None:
    async with aioioth.Stack("memory://lan", ip="10.0.0.2/24"):
        assert ", 0% packet loss" in await output(stack, "ping", "-c1", "10.0.0.2")


async def test_a_client(stack: aioioth.Stack, echo: Any) -> None:
    async with (
        aioioth.Stack("memory://lan", ip="10.0.0.2/24") as other,
        await other.start_server(echo, "10.0.0.2", 7),
    ):
        client = """if True:
            import socket
            with socket.create_connection(("10.0.0.2", 7)) as connection:
                connection.sendall(b"hello")
                connection.shutdown(socket.SHUT_WR)
                print(connection.recv(100).decode())
        """
        assert await output(stack, sys.executable, "-c", client) == "hello\n"


SERVER = """if True:
    import socket
    with socket.create_server(("", 80)) as server:
        while True:
            connection, peer = server.accept()
            connection.sendall(peer[0].encode())
            connection.close()
"""


async def test_a_server(stack: aioioth.Stack) -> None:
    async with aioioth.Stack("memory://lan", ip="10.0.0.2/24") as other:
        server = await stack.create_subprocess_exec(sys.executable, "-c", SERVER)
        try:
            await other.wait_listening("10.0.0.1", 80, 30)
            reader, writer = await other.open_connection("10.0.0.1", 80)
            assert await reader.read() == b"10.0.0.2"
            writer.close()
            await writer.wait_closed()
        finally:
            server.kill()
            await server.wait()


async def test_another_user(stack: aioioth.Stack, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may change to another user")
    ranges = await output(stack, "cat", "/proc/self/uid_map")
    if sum(int(line.split()[2]) for line in ranges.splitlines()) == 1:
        pytest.skip("root has no other ids here")
    nobody = pwd.getpwnam("nobody")
    show = ["sh", "-c", "id -u; id -g; id -G; grep CapAmb /proc/self/status"]
    found = await output(
        stack, *show, user="nobody", group=nobody.pw_gid, extra_groups=[3, "mail"]
    )
    assert found.splitlines() == [
        str(nobody.pw_uid),
        str(nobody.pw_gid),
        f"{nobody.pw_gid} 3 8",
        f"CapAmb:\t{NETWORK_CAPABILITIES}",
    ]
    owned = tmp_path / "owned"
    owned.touch()
    os.chown(owned, nobody.pw_uid, nobody.pw_gid)
    assert await output(stack, "stat", "-c%U", str(owned)) == "nobody\n"


# How it ends

PARENT = """
    import asyncio, sys, aioioth

    async def main():
        async with aioioth.Stack() as stack:
            program = await stack.create_subprocess_exec(
                *sys.argv[1:], stdout=asyncio.subprocess.DEVNULL
            )
            print(program.pid, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


@pytest.mark.parametrize("program", [["sleep", "1000"], ["ping", "127.0.0.1"]], ids=str)
def test_it_dies_with_us(program: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), *program], stdout=PIPE
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        try:
            assert select.select([watch], [], [], 0)[0] == []
            parent.kill()
            assert select.select([watch], [], [], 30)[0] == [watch]
        finally:
            os.close(watch)


# A row of commands


async def test_run(stack: aioioth.Stack, tmp_path: Path) -> None:
    written = tmp_path / "written"
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> {written}\n')
    script.chmod(0o755)
    commands = f"""{script} one "two; 'three'" ; ; {script} 'a;"b' c\\ d\\;e""; """
    assert await stack.run(commands) == 0
    assert written.read_text() == "one|two; 'three'|a;\"b|c d;e|"


async def test_run_nothing(stack: aioioth.Stack) -> None:
    assert await stack.run("") == 0
    assert await stack.run(" ; ;; ") == 0


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("/bin/false", 1),
        ("/bin/sh -c 'exit 42'", 42),
        ("/bin/sh -c 'kill -TERM $$'", -signal.SIGTERM),
    ],
)
async def test_run_stops_at_a_failure(
    stack: aioioth.Stack, command: str, status: int, tmp_path: Path
) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    assert (
        await stack.run(f"/bin/touch {first}; {command}; /bin/touch {last}") == status
    )
    assert first.exists()
    assert not last.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("echo", "'echo' is no absolute path"),
        ("./echo", "'./echo' is no absolute path"),
        ("''", "'' is no absolute path"),
        ("/bin/echo 'a", "No closing quotation"),
        ('/bin/echo "a;', "No closing quotation"),
        ("/bin/echo a\\", "No escaped character"),
    ],
)
async def test_run_checks_all_first(
    stack: aioioth.Stack, wrong: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await stack.run(f"/bin/touch {tmp_path}/made; {wrong}")
    assert list(tmp_path.iterdir()) == []


async def test_run_reads_nothing(stack: aioioth.Stack) -> None:
    async with asyncio.timeout(30):
        assert await stack.run("/bin/cat") == 0


async def test_run_what_is_not_there(stack: aioioth.Stack) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await stack.run("/bin/true; /there/is/no/such; /bin/true")
    assert caught.value.filename == "/there/is/no/such"


async def test_run_configures(stack: aioioth.Stack) -> None:
    ip = "/sbin/ip"
    add = f"{ip} addr add 10.0.9.1/24 dev vde0; {ip} link set vde0 mtu 1400"
    assert await stack.run(add) == 0
    interface = json.loads(await output(stack, "ip", "-j", "addr"))[1]
    assert interface["mtu"] == 1400
    assert interface["addr_info"][1]["local"] == "10.0.9.1"


# Waiting for a server


async def test_wait_listening_for_a_later_server(stack: aioioth.Stack) -> None:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""  # closed at once, in an orderly way
        writer.close()
        await writer.wait_closed()
        served.set()

    async with aioioth.Stack("memory://lan", ip="10.0.0.2/24") as other:
        waiting = asyncio.create_task(other.wait_listening("10.0.0.1", 7))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        async with await stack.start_server(serve, "10.0.0.1", 7), asyncio.timeout(30):
            await waiting
            await served.wait()


async def test_wait_listening_gives_up(stack: aioioth.Stack) -> None:
    with pytest.raises(TimeoutError) as caught:
        await stack.wait_listening("10.0.0.1", 7, 0.05)
    message = "nobody listens on 10.0.0.1 port 7 after 0.05 s: [Errno 111]"
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_wait_listening_for_an_unknown_name(stack: aioioth.Stack) -> None:
    with pytest.raises(socket.gaierror) as caught:
        await stack.wait_listening("no.such.name", 7)
    assert caught.value.errno == socket.EAI_NONAME


async def test_wait_listening_on_a_closed_stack() -> None:
    stack = aioioth.Stack()
    with pytest.raises(ClosedError):
        await stack.wait_listening("10.0.0.1", 7)


# Refusals, in a user namespace of their own

LIMITED = """
    import asyncio, ctypes, os, pathlib
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())
    pathlib.Path("/proc/self/setgroups").write_text("deny")
    pathlib.Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    pathlib.Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    pathlib.Path("/proc/sys/user/max_mnt_namespaces").write_text("0")

    import aioioth
    from aioioth.testing import no_leaks

    async def main():
        async with aioioth.Stack() as stack:
            with no_leaks():
                try:
                    await stack.create_subprocess_exec("true", stdin=-1)
                except aioioth.errors.MissingPrivilegeError as error:
                    print(error)

    asyncio.run(main())
"""


def test_no_mount_namespaces() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    begin = "[Errno 28] starting a program: mount namespace: No space left on device."
    assert done.stdout.startswith(begin)
    assert "user.max_mnt_namespaces" in done.stdout
