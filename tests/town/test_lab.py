"""The town, its name server and the proxy do what they say: other tests believe them."""
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from conftest import wait_until
from harness.names import SERVFAIL, question_of
from harness.namespaces import available
from harness.proxy import Proxy
from harness.servers import ROOT, freeze, frozen, states
from harness.town import Town


# ---- processes ----

FREEZES = 50  # without the wait, one in twenty has a thread that still runs


def test_what_is_frozen_stands_still_with_all_its_threads(servers):
    pid = servers[1].process.pid
    for _ in range(FREEZES):
        with frozen(pid):
            now = states(pid)
            assert len(now) > 1 and set(now) == {"T"}
    assert servers[1].try_sql("SELECT 1") == "1\n"


def test_what_is_frozen_goes_on_whatever_happens(servers):
    pid = servers[0].process.pid
    with pytest.raises(ZeroDivisionError), frozen(pid):
        assert set(states(pid)) == {"T"}
        raise ZeroDivisionError
    assert servers[0].cli("PING") == "PONG"


def test_who_has_ended_is_not_taken_for_frozen():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie takes signals, and says nothing of them
    with pytest.raises(ProcessLookupError):
        freeze(process.pid)
    process.wait()
    with pytest.raises(ProcessLookupError):
        freeze(process.pid)


# ---- the proxy ----

class Echo:
    """A server that gives back what it gets."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
        self.ends = []  # how connections ended
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection = self.server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
                self.ends.append("fin")
            except ConnectionResetError:
                self.ends.append("rst")

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def cable(echo):
    with Proxy(echo.address) as made:
        yield made


def call(cable):
    s = socket.create_connection((cable.host, cable.port), timeout=10)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def ask(s, data):
    s.sendall(data)
    return read(s, len(data))


def read(s, size):
    got = b""
    while len(got) < size and (more := s.recv(size - len(got))):
        got += more
    return got


def test_a_proxy_passes_everything(cable, echo):
    data = os.urandom(3_000_000)
    with call(cable) as s:
        sender = threading.Thread(target=s.sendall, args=(data,))
        sender.start()
        assert read(s, len(data)) == data
        sender.join()
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""  # an end passes, too
    wait_until(lambda: echo.ends == ["fin"] and cable.open == 0, what="the end")
    assert cable.passed == {"questions": len(data), "answers": len(data)} and cable.accepted == 1


def test_a_proxy_holds_and_goes_on(cable):
    with call(cable) as s:
        assert ask(s, b"one") == b"one"
        cable.hold()
        s.sendall(b"two")
        s.settimeout(0.3)
        with pytest.raises(TimeoutError):
            s.recv(1)
        s.settimeout(10)
        assert cable.open == 1
        cable.go()
        assert read(s, 3) == b"two"


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_proxy_cuts(cable, echo, how):
    with call(cable) as s:
        assert ask(s, b"one") == b"one"
        cable.cut(how)
        if how == "fin":
            assert s.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                s.recv(1)
    wait_until(lambda: echo.ends == [how], what="the server hears of it")
    with call(cable) as s:
        assert ask(s, b"new") == b"new"


def test_a_proxy_delays_and_throttles(cable):
    with call(cable) as s:
        ask(s, b"x")
        cable.delay_s = 0.2
        began = time.monotonic()
        assert ask(s, b"x" * 1000) == b"x" * 1000
        assert 0.4 <= time.monotonic() - began < 2
        cable.delay_s, cable.rate = 0, 20
        began = time.monotonic()
        assert ask(s, b"abcdefghij") == b"abcdefghij"
        assert 0.45 <= time.monotonic() - began < 3


@pytest.mark.parametrize("way", ["questions", "answers"])
def test_a_proxy_flips_one_bit(cable, way):
    with call(cable) as s:
        ask(s, b"aaaa")
        cable.flip[way] = 3
        assert ask(s, b"a") + ask(s, b"aaaa") + ask(s, b"a") == b"aa`aaa" and cable.flip[way] is None


def test_a_proxy_refuses(cable):
    cable.refuse()
    with pytest.raises(ConnectionRefusedError):
        call(cable)
    cable.welcome()
    with call(cable) as s:
        assert ask(s, b"one") == b"one"
    cable.refuses = True
    with pytest.raises(ConnectionResetError), call(cable) as s:  # which may see it while it connects
        s.recv(1)


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_a_proxy_tears(cable, lost):
    with call(cable) as s:
        assert ask(s, b"one") == b"one"
        cable.tear_at, cable.lost = b"wo", lost
        before = cable.passed["questions"]
        s.sendall(b"two")
        assert s.recv(10) == b""
        assert cable.tear_at is None and cable.passed["questions"] - before == (3 if lost == "answer" else 0)


# ---- the town ----

def open_port(host):
    """A server on a host of the town."""
    server = host.socket()
    server.bind((host.address, 0))
    server.listen()
    return server


def reaches(town, one, other, timeout=10):
    """Whether something that is sent over a new connection arrives."""
    with open_port(town.hosts[other]) as server:
        try:
            with town.hosts[one].connect(server.getsockname(), timeout) as near:
                server.settimeout(timeout)
                far = server.accept()[0]
                with far:
                    near.sendall(b"x")
                    far.settimeout(timeout)
                    return far.recv(1) == b"x"
        except TimeoutError:
            return False


def is_silent(town, one, other):
    return not reaches(town, one, other, timeout=0.7)


def test_hosts_have_names_and_files_of_their_own(town):
    assert [town.hosts[n].run("hostname").stdout.strip() for n in ("api", "storage2")] == ["api", "storage2"]
    town.hosts["api"].names(redis="10.9.0.77")
    seen = {n: town.hosts[n].run("getent", "ahosts", "redis").stdout.split()[0] for n in ("api", "storage1")}
    assert seen == {"api": "10.9.0.77", "storage1": "10.9.0.3"}
    (town.hosts["storage1"].srv / "here").write_text("x")
    assert [town.hosts[n].run("ls", "/srv").stdout for n in ("storage1", "storage2")] == ["here\n", ""]
    (town.hosts["storage1"].srv / "here").unlink()
    assert "10.9.0.77" not in pathlib.Path("/etc/hosts").read_text(encoding="utf-8")


def test_cables_are_cut_and_mended(town):
    assert reaches(town, "storage1", "redis") and reaches(town, "redis", "storage1")
    with town.cut("storage1", "redis"):
        assert is_silent(town, "storage1", "redis") and is_silent(town, "redis", "storage1")
        assert reaches(town, "storage2", "redis") and reaches(town, "storage1", "db")
    assert reaches(town, "storage1", "redis")
    with town.unplugged("redis"):
        assert is_silent(town, "storage2", "redis")
    assert reaches(town, "storage2", "redis")
    with town.cut("api"):
        assert is_silent(town, "storage1", "api")
    assert reaches(town, "storage1", "api")


def test_a_cut_is_silent_to_connections_that_stand(town):
    with open_port(town.hosts["redis"]) as server, town.hosts["api"].connect(server.getsockname()) as near:
        far = server.accept()[0]
        with town.cut_one_way("redis", "api"):
            near.sendall(b"x")
            assert far.recv(1) == b"x"
            far.sendall(b"y")
            near.settimeout(0.5)
            with pytest.raises(TimeoutError):
                near.recv(1)
        near.settimeout(10)
        assert near.recv(1) == b"y"  # what was lost is sent again
        far.close()


def query(town, name, transport="udp", kind=1, timeout=5):
    """(rcode, truncated, addresses), or None for silence."""
    packet = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)
    packet += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + struct.pack("!BHH", 0, kind, 1)
    with town.hosts["api"].socket(socket.AF_INET, socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        s.connect(("10.9.0.53", 53))
        s.sendall(packet if transport == "udp" else struct.pack("!H", len(packet)) + packet)
        try:
            answer = s.recv(4096) if transport == "udp" else read(s, struct.unpack("!H", read(s, 2))[0])
        except TimeoutError:
            return None
    _, flags, _, count, _, _ = struct.unpack_from("!HHHHHH", answer)
    size, at = {1: 4, 28: 16}[kind], 12 + len(question_of(packet)[2])
    family = socket.AF_INET if kind == 1 else socket.AF_INET6
    found = [socket.inet_ntop(family, answer[at + n * (12 + size) + 12:][:size]) for n in range(count)]
    return flags & 15, bool(flags & 0x0200), found


def test_the_name_server(town):
    assert query(town, "redis.town") == query(town, "redis.town", "tcp") == (0, False, ["10.9.0.3"])
    assert query(town, "nobody.town")[0] == 3 and query(town, "redis.town", kind=28) == (0, False, [])
    town.name("redis", "10.9.0.8", "10.9.0.3", "fd09::3")
    assert query(town, "redis.town")[2] == ["10.9.0.8", "10.9.0.3"] and query(town, "redis.town", kind=28)[2] == ["fd09::3"]
    town.dns.refuse("corp.example", SERVFAIL)
    assert query(town, "redis.corp.example")[0] == 2
    town.dns.truncate = True
    assert query(town, "redis.town") == (0, True, []) and query(town, "redis.town", "tcp")[2] == ["10.9.0.8", "10.9.0.3"]
    town.dns.truncate, town.dns.lag_s = False, 0.3
    began = time.monotonic()
    assert query(town, "redis.town")[0] == 0 and time.monotonic() - began >= 0.3
    town.dns.lag_s, town.dns.silent = 0, True
    assert query(town, "redis.town", timeout=0.3) is None and query(town, "redis.town", "tcp", timeout=0.3) is None
    assert town.dns.count("redis.town") >= 7


def test_a_resolver_understands_the_name_server(town):
    """The C library's, which asks over TCP what is truncated, and goes on when a search domain fails."""
    def found():
        return [line.split()[0] for line in town.hosts["api"].run("getent", "ahostsv4", "redis").stdout.splitlines() if "STREAM" in line]

    town.name("redis", "10.9.0.8", "10.9.0.3")
    assert sorted(found()) == ["10.9.0.3", "10.9.0.8"]
    town.dns.truncate = True
    assert sorted(found()) == ["10.9.0.3", "10.9.0.8"] and ("tcp", "redis.town", "A") in town.dns.asked
    town.dns.truncate = False
    town.dns.refuse("corp.example", SERVFAIL)
    town.hosts["api"].resolver("nameserver 10.9.0.53", "search corp.example town")
    assert sorted(found()) == ["10.9.0.3", "10.9.0.8"] and town.dns.count("redis.corp.example") > 0


def test_a_server_moves_with_its_name(town):
    town.redis.cli("SET", "x", "1")
    town.redis.stop()
    town.move(town.redis, "redis2")
    town.redis.start()
    assert query(town, "redis.town")[2] == [town.hosts["redis2"].address]
    with town.hosts["api"].connect(town.redis.far_address) as s:
        s.sendall(b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n")
        assert s.recv(1)
    with pytest.raises(ConnectionRefusedError):
        town.hosts["api"].connect((town.hosts["redis"].address, 6379))
    assert town.redis.cli("GET", "x") == "1"


OTHER = """import sys; sys.path.insert(0, "tests")
from harness.town import Town
town = Town(storage=1)
town.redis.start()
print(*[h.holder.pid for h in town.hosts.values()], town.street.holder.pid, town.redis.process.pid, town.folder, flush=True)
sys.stdin.read()
"""


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_town_ends_with_its_maker(town):
    """Another one beside this one, with the same addresses; it is killed: nothing of it stays but a folder."""
    maker = subprocess.Popen([sys.executable, "-c", OTHER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        *pids, folder = maker.stdout.readline().split()
        assert query(town, "redis.town")[2] == ["10.9.0.3"] and reaches(town, "storage1", "redis")
    finally:
        maker.send_signal(signal.SIGKILL)
        maker.communicate()
    wait_until(lambda: all(map(gone, pids)), what="the end of its processes")
    subprocess.run(["rm", "-r", folder], check=True)
    assert reaches(town, "storage1", "redis")


@pytest.mark.skipif(available() is not None, reason=str(available()))
def test_what_a_town_leaves():
    before = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    with Town() as other:
        folder, pids = other.folder, [h.holder.pid for h in other.hosts.values()]
        assert folder.exists() and not any(map(gone, pids))
        assert subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout == before
    assert not folder.exists() and all(map(gone, pids))
