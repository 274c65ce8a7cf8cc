"""What a service manager sees: sd_notify(3) on a real datagram socket, the journal's prefixes."""
import contextlib
import os
import signal
import socket
import time

import pytest
from conftest import wait_until
from harness import strace
from harness.servers import TIERD, Failed, freeze, frozen


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.environment = {"NOTIFY_SOCKET": str(address).replace("\0", "@")}
        self.heard = []

    def wait(self, want, timeout=20):
        """The fields of the first message from now on that holds the assignment `want`."""
        deadline = time.monotonic() + timeout
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                raise Failed(f"no {want} in {timeout} s; heard {self.heard}") from None
            self.heard.append(message)
            if want in message.split("\n"):
                return dict(line.split("=", 1) for line in message.split("\n"))

    def drain(self):
        """Forgets what has come."""
        self.count("", 0)

    def count(self, want, seconds):
        """The messages that hold `want`, of those that are there and come within so long."""
        n, deadline = 0, time.monotonic() + seconds
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                self.socket.settimeout(max(0, deadline - time.monotonic()))
                n += want in self.socket.recv(4096).decode().split("\n")
        return n


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    m = Manager(str(tmp_path / "n") if request.param == "path" else f"\0tierd-test-{os.getpid()}-{time.monotonic_ns()}")
    yield m
    m.socket.close()


def api(site, manager, *args, **env):
    return site.start("--role=api", "--listen=127.0.0.1:0", *site.common(), *args, env={**manager.environment, **env})


def test_ready_and_stopping(site, manager):
    process = api(site, manager, "--drain-timeout=40s")
    manager.wait("READY=1")
    process.process.send_signal(signal.SIGTERM)
    # the unit's own time-out must not cut the drain short
    assert int(manager.wait("STOPPING=1")["EXTEND_TIMEOUT_USEC"]) > 40e6
    assert process.stop() == 0


def test_ready_comes_after_all_children(site, manager):
    site.sample()
    process = site.start("--role=all", "--listen=127.0.0.1:0", "--workers=3", f"--root={site.folder}",
                         *site.common(), env=manager.environment, wait=False)
    manager.wait("READY=1")
    assert len(process.children()) == 4


def fed(manager, seconds):
    """How often the watchdog is fed within so long, from now on."""
    manager.drain()
    return manager.count("WATCHDOG=1", seconds)


def test_watchdog(site, manager):
    process = api(site, manager, WATCHDOG_USEC="400000")
    for _ in range(3):
        manager.wait("WATCHDOG=1")
    with frozen(process.process.pid):  # a supervisor that hangs is silent
        assert fed(manager, 2) == 0
    manager.wait("WATCHDOG=1")


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize("role", ["api", pytest.param("worker", marks=pytest.mark.full_only)])
def test_watchdog_is_fed_on_while_a_child_that_hangs_is_replaced(site, manager, role):
    """What hangs is mended from within: a restart of all would end moves and requests that are well."""
    env = {**manager.environment, "WATCHDOG_USEC": "1000000"}
    own = {"api": ["--listen=127.0.0.1:0"], "worker": ["--workers=1", f"--root={site.folder}"]}
    process = site.start(f"--role={role}", *own[role], *site.common(), env=env)
    hung, = process.children()
    freeze(hung)
    manager.drain()
    process.wait_line(f"child {hung} of role {role} has not turned for .*, it is killed and replaced", 60)
    assert manager.count("WATCHDOG=1", 0) >= 10  # of the some sixty that half a minute holds
    wait_until(lambda: process.children() and hung not in process.children(), what="another child")
    manager.drain()
    for _ in range(3):
        manager.wait("WATCHDOG=1")
    assert process.process.poll() is None


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_watchdog_is_not_fed_while_a_child_cannot_be_made(site, manager):
    """Then nothing mends it but a restart; and as soon as it can be made again, it is fed again."""
    if why := strace.available():
        pytest.skip(why)
    process = api(site, manager, WATCHDOG_USEC="400000")
    manager.wait("WATCHDOG=1")
    child, = process.children()
    with strace.Strace(process.process.pid, "inject=fork,vfork,clone,clone3:error=EAGAIN"):
        os.kill(child, signal.SIGKILL)
        process.wait_line("cannot fork")
        assert fed(manager, 2) == 0
    wait_until(process.children, what="a child")
    manager.wait("WATCHDOG=1")


def test_watchdog_of_another_process_is_left_alone(site, manager):
    api(site, manager, WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    manager.wait("READY=1")
    manager.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        manager.socket.recv(4096)


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_a_manager_that_does_not_read(site, manager):
    """Its queue is full: nobody waits for it, and it hears of us as soon as it reads."""
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with filler, contextlib.suppress(BlockingIOError):
        while True:
            filler.sendto(b"FILL=1", socket.MSG_DONTWAIT, manager.socket.getsockname())
    process = api(site, manager, WATCHDOG_USEC="40000")
    child, = process.children()
    os.kill(child, signal.SIGKILL)
    process.wait_line("a child died and is started again")
    wait_until(lambda: process.children() and child not in process.children(), what="another child")
    manager.wait("READY=1")
    manager.wait("WATCHDOG=1")
    assert process.stop() == 0


def test_reload(site, manager, tmp_path):
    path = tmp_path / "tierd.conf"
    path.write_text("log-level = info\n")
    process = api(site, manager, f"--config={path}", "--api-workers=2")
    manager.wait("READY=1")
    old = process.children()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    process.process.send_signal(signal.SIGHUP)
    at = int(manager.wait("RELOADING=1")["MONOTONIC_USEC"])
    assert before <= at <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.wait("READY=1")
    assert len(process.children()) == 2 and not set(old) & set(process.children())
    assert process.count("^ready ") == 1

    path.write_text("log-level = loud\n")
    old = process.children()
    process.process.send_signal(signal.SIGHUP)
    manager.wait("RELOADING=1")
    assert "refused" in manager.wait("READY=1")["STATUS"]
    assert process.children() == old


def test_nobody_listens(site, tmp_path):
    """A manager that is gone, or a nonsense address, costs nothing."""
    for address in (tmp_path / "gone", "nonsense", "/" + "x" * 200):
        process = site.start("--role=api", "--listen=127.0.0.1:0", *site.common(), env={"NOTIFY_SOCKET": str(address)})
        assert process.stop() == 0


def test_journal_prefixes(tmp_path):
    """stderr is the file that JOURNAL_STREAM names: every line has a level for the journal, no time."""
    log = tmp_path / "log"
    with open(log, "wb") as out:
        status = os.fstat(out.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        pid = os.posix_spawn(TIERD, [TIERD, "--role=api", "--listen=127.0.0.1:0", "--redis=unix:///nowhere?db=1",
                                     "--db=mysql://x@localhost/t?socket=/no"], env,
                             file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 2)])
        deadline = time.monotonic() + 20
        while b"ready role=api" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == 0
    lines = log.read_text().splitlines()
    assert any(line.startswith("<6>ready role=api listen=127.0.0.1:") for line in lines)
    assert any(line.startswith("<4>level=warn msg=") for line in lines)
    assert all(line.startswith(("<4>", "<6>")) and "time=" not in line for line in lines)
