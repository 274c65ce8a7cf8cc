"""The API within its bounds: deadlines, connections, descriptors, queues. tests/http-rules.md, second table."""
import contextlib
import resource
import select
import signal
import socket
import threading
import time

import pytest
from harness.servers import frozen
from wire import HEALTH, Wire, post, rss_kib, until


@pytest.fixture
def start(site):
    site.sample()
    return site.start_api


def drip(wire, data):
    """Sends byte after byte, over and over, until the server says something or ends."""
    for i in range(2000):
        if select.select([wire.socket], [], [], 0.02)[0]:
            return
        wire.send(data[i % len(data):i % len(data) + 1])
    pytest.fail("the server waits for ever")


@pytest.mark.parametrize("begin,rest", [
    pytest.param(b"GET / HTTP/1.1\r\n", b"A: b\r\n", id="head"),
    pytest.param(b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n", b"x", id="body"),
    pytest.param(b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n",
                 id="chunked"),
])
def test_a_slow_sender_cannot_stretch_its_deadline(start, begin, rest):
    """Bytes come all the time, the request never ends: 408 when its time is over."""
    api = start("--request-timeout=700ms", "--idle-timeout=30s")
    with Wire(api) as wire:
        wire.send(begin)
        drip(wire, rest)
        reply = wire.reply()
        assert reply.status == 408 and reply.closes
        assert wire.ended()


def test_the_deadline_of_a_request_starts_with_its_first_byte(start):
    api = start("--request-timeout=1s", "--idle-timeout=30s")
    with Wire(api) as wire:
        time.sleep(1.5)  # longer than a request may take: idle is not late
        assert wire.alive()
        time.sleep(1.5)
        assert wire.alive()


def test_idle_connections_end_without_a_word(start):
    api = start("--idle-timeout=300ms")
    with Wire(api) as fresh, Wire(api) as used:
        assert used.alive()
        assert fresh.ended() and used.ended()


def test_who_waits_for_an_answer_is_not_idle(start, site):
    """The database hangs for longer than both timeouts; the answer still arrives."""
    api = start("--idle-timeout=200ms", "--request-timeout=200ms")
    with frozen(site.db.process.pid), Wire(api) as wire:
        assert wire.ask(post()).status == 503


def fill(wire, request):
    """Sends until nobody takes any more; how many bytes were taken."""
    sent = 0
    wire.socket.setblocking(False)
    while select.select([], [wire.socket], [], 1.0)[1]:
        try:
            sent += wire.socket.send(request * 50)
        except BlockingIOError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
        assert sent < 64 << 20, "the server takes requests without end"
    wire.socket.settimeout(20)
    return sent


def test_a_client_that_does_not_read_is_not_read_from(start):
    """Its answers are bounded, so its requests are; others are served; it gets all answers once it reads."""
    api = start()
    child = api.children()[0]
    before = rss_kib(child)
    with Wire(api, receive_buffer=4096) as wire, Wire(api) as other:
        request = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"n" * 100)
        sent = fill(wire, request)
        assert other.alive()
        assert rss_kib(child) - before < 4096
        for _ in range(sent // len(request)):
            assert wire.reply().status == 404


def test_a_client_that_does_not_read_is_let_go(start):
    api = start("--idle-timeout=500ms")
    with Wire(api, receive_buffer=4096) as wire:
        fill(wire, b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"n" * 100))
        until(lambda: not established(api), "the server's close")


def test_a_client_that_reads_drops_is_let_go(start):
    """A byte now and then is no progress."""
    api = start("--idle-timeout=1s")
    with Wire(api, receive_buffer=4096) as wire:
        fill(wire, b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"n" * 100))

        def read_one_and_look():
            wire.socket.recv(1)
            return not established(api)
        until(read_one_and_look, "the server's close")


def established(api):
    """How many connections the API holds, by the kernel's table."""
    port = int(api.address.rsplit(":", 1)[1])
    with open("/proc/net/tcp", encoding="ascii") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return sum(1 for r in rows if int(r[1].split(":")[1], 16) == port and r[3] in ("01", "04", "05", "08", "0B"))


def test_a_long_pipeline_does_not_hold_up_others(start):
    """One client pipelines without end and reads; each request of another is answered meanwhile."""
    api = start()
    stop = threading.Event()

    def pipeline():
        with Wire(api) as wire:
            block = b"GET /n HTTP/1.1\r\nHost: x\r\n\r\n" * 200
            while not stop.is_set():
                wire.send(block)
                for _ in range(200):
                    assert wire.reply().status == 404
    thread = threading.Thread(target=pipeline)
    thread.start()
    try:
        with Wire(api) as other:
            for _ in range(50):
                assert other.ask(post()).status == 200
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


# ---- connections ----

def test_connections_past_the_bound_wait(start):
    api = start("--max-connections=3")
    wires = [Wire(api) for _ in range(3)]
    try:
        assert all(w.alive() for w in wires)
        late = Wire(api).send(HEALTH)
        assert not select.select([late.socket], [], [], 0.3)[0]
        assert all(w.alive() for w in wires)
        wires.pop().close()
        assert late.reply().status == 200
        wires.append(late)
    finally:
        for w in wires:
            w.close()


def test_connections_of_one_address(start):
    api = start("--max-connections-per-address=3")
    wires = [Wire(api, source="127.0.0.1") for _ in range(3)]
    try:
        assert all(w.alive() for w in wires)
        with Wire(api, source="127.0.0.1") as late:
            reply = late.reply()
            assert reply.status == 503 and reply.closes and reply.headers["retry-after"] == "1"
            assert late.ended()
        with Wire(api, source="127.0.0.2") as other:
            assert other.alive()
        assert all(w.alive() for w in wires)
        wires.pop().close()
        until(lambda: served(api), "a place for the next")
    finally:
        for w in wires:
            w.close()


def served(api):
    with Wire(api, source="127.0.0.1") as wire:
        try:
            return wire.alive()
        except (AssertionError, OSError):
            return False


def test_descriptors_used_up(start):
    """The API has no descriptor left: it serves those that are in, Redis and database too, and takes the
    next when one leaves."""
    api = start()
    child = api.children()[0]
    first = [Wire(api) for _ in range(10)]
    late = []
    try:
        assert all(w.alive() for w in first)
        open_now = len(list_fds(child))
        resource.prlimit(child, resource.RLIMIT_NOFILE, (max(list_fds(child)) + 1,) * 2)
        late = [Wire(api).send(HEALTH) for _ in range(10)]
        assert not select.select([w.socket for w in late], [], [], 0.5)[0]
        assert len(list_fds(child)) <= open_now + 1
        for w in first:
            assert w.ask(post()).status == 200
        for _ in range(5):
            first.pop().close()
        until(lambda: len(select.select([w.socket for w in late], [], [], 0)[0]) >= 5, "answers for the next five")
        assert all(w.ask(post()).status == 200 for w in first)
    finally:
        for w in first + late:
            w.close()


def list_fds(pid):
    import os
    return [int(n) for n in os.listdir(f"/proc/{pid}/fd")]


def test_few_descriptors_leave_some_for_the_servers_behind(start, site):
    """With a low limit from the start fewer connections are taken, so that Redis can be reached again."""
    api = start()
    resource.prlimit(api.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    before = len(api.lines)
    api.process.send_signal(signal.SIGHUP)
    line = api.wait_line("fewer connections than max-connections", start=before)
    places = int(line.split("connections=")[1].split()[0])
    assert 0 < places < 64
    until(lambda: served(api), "the new process")
    wires = [Wire(api).send(HEALTH) for _ in range(64)]
    try:
        until(lambda: len(select.select([w.socket for w in wires], [], [], 0)[0]) >= places, "the first answers")
        ready = select.select([w.socket for w in wires], [], [], 0.3)[0]
        assert len(ready) == places
        site.redis.cli("CLIENT", "KILL", "TYPE", "normal")
        inside = next(w for w in wires if w.socket is ready[0])
        assert inside.reply().status == 200
        until(lambda: inside.ask(post()).status == 200, "Redis back on a new descriptor")
    finally:
        for w in wires:
            w.close()


def test_soft_limit_of_descriptors_is_raised(start):
    api = start()
    soft, hard = resource.prlimit(api.children()[0], resource.RLIMIT_NOFILE)
    assert soft == hard


@contextlib.contextmanager
def open_files(wanted):
    """As many as are needed, here and in the API, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        pytest.skip(f"at most {hard} open files are allowed here, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SLOW = 2000


def test_slow_connections_beside_a_normal_client(start):
    """2,000 clients that never finish a request: the normal one is served, on its own connection and on new ones."""
    with open_files(SLOW + 200):
        api = start("--request-timeout=60s")
        slow, stop = [], threading.Event()
        try:
            for i in range(SLOW):
                wire = Wire(api)
                wire.send([b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nA: ", b"", post()[:-3], b"GET /"][i % 4])
                slow.append(wire)

            def trickle():
                while not stop.is_set():
                    for wire in slow[::4]:
                        wire.send(b"b")
                    stop.wait(0.2)
            thread = threading.Thread(target=trickle)
            thread.start()
            with Wire(api) as normal:
                for i in range(200):
                    assert normal.ask(post()).status == 200
                    if i % 10 == 0:
                        with Wire(api) as fresh:
                            assert fresh.ask(post()).status == 200
            stop.set()
            thread.join(30)
            assert established(api) >= SLOW
        finally:
            stop.set()
            for wire in slow:
                wire.close()


IDLE = 10000
IDLE_KIB = 40 * 1024  # all of them, and the process


def test_memory_of_idle_connections(start, site):
    """An idle connection holds no buffers, whatever it and all the others did before."""
    with open_files(IDLE + 200):
        api = start()
        child = api.children()[0]
        idle = []
        try:
            for i in range(IDLE):
                idle.append(Wire(api).send(post()))
                if i % 100 == 99:
                    assert all(w.reply().status == 200 for w in idle[-100:])
            assert rss_kib(child) < IDLE_KIB
            # once more when the machine was so slow that the database seemed to be away
            assert any(all_at_once(idle, site) == [200] * IDLE for _ in range(3))
            assert rss_kib(child) < IDLE_KIB
        finally:
            for wire in idle:
                wire.close()


def all_at_once(wires, site):
    """All have a post under way at the same time: the answers' statuses."""
    with frozen(site.db.process.pid):
        for wire in wires:
            wire.send(post())
    return [wire.reply().status for wire in wires]


def test_a_reset_connection_is_forgotten(start):
    api = start()
    for _ in range(20):
        wire = Wire(api)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        wire.send(post() * 20)
        wire.close()
    with Wire(api) as wire:
        assert wire.alive()
    until(lambda: not established(api), "the end of all")
