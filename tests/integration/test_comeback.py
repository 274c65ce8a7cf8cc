"""A server that was away is used again within a second of its first answer, over TCP, however long it was away."""
import contextlib
import signal
import socket
import threading
import time

import pytest

from conftest import Site, wait_until
from harness.pipes import connect, parse

COMES_BACK_S = 1.0
SLACK_S = 0.3  # of a machine with two cores on which other tests run, too


def answers(address):
    """When the server at this address first says something, as seen from the outside."""
    while True:
        try:
            with socket.create_connection(address, timeout=1) as s:
                s.sendall(b"PING\r\n")
                if s.recv(1):
                    return time.monotonic()
        except OSError:
            time.sleep(0.005)


def served(site, deadline_s=30):
    """When a post is first answered 200."""
    deadline = time.monotonic() + deadline_s
    said = None
    while time.monotonic() < deadline:
        said = site.post(1, 1964)
        if said.status == 200:
            return time.monotonic()
        time.sleep(0.005)
    pytest.fail(f"not served for {deadline_s} s: {said.body}, {site.request('GET', '/health').body}")


@contextlib.contextmanager
def load(site, clients=8):
    """Posts without a pause, whatever is answered."""
    stop = threading.Event()

    def post():
        where = parse(site.api.address)
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(where, 5) as s:
                while not stop.is_set():
                    s.sendall(b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\ncid=2&count=19")
                    if not s.recv(65536):
                        break
    threads = [threading.Thread(target=post, daemon=True) for _ in range(clients)]
    for t in threads:
        t.start()
    try:
        yield
    finally:
        stop.set()
        for t in threads:
            t.join(20)


def away(site, server, seconds, sig):
    """Away for so long; how long after its first answer a post was served."""
    server.stop(sig)
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5)
    server.launch()
    at = answers(server.address)
    took = served(site) - at
    server.wait()
    return took


@pytest.fixture
def tcp_site(own_servers, tmp_path):
    s = Site(*own_servers, tmp_path / "levels")
    assert isinstance(s.redis.address, tuple) and isinstance(s.db.address, tuple)
    s.sample()
    yield s
    s.close()


@pytest.mark.parametrize("busy", [False, True], ids=["quiet", "busy"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
@pytest.mark.parametrize("name", ["redis", "db"])
def test_served_within_a_second(tcp_site, name, sig, busy):
    """Connector/C closes a refused connection itself: its number stood for others, and the loop waited for ever."""
    site = tcp_site
    site.start_api()
    assert site.post(1, 1964).status == 200
    with load(site) if busy else contextlib.nullcontext():
        for seconds in (0.3, 2, 8):
            took = away(site, getattr(site, name), seconds, sig)
            assert took < COMES_BACK_S + SLACK_S, f"{took:.2f} s after {seconds} s"
    assert site.request("GET", "/health").body == '{"status": "ok", "redis": "ok", "db": "ok"}'


@pytest.mark.parametrize("name", ["redis", "db"])
def test_started_before_the_server(tcp_site, name):
    site = tcp_site
    server = getattr(site, name)
    server.stop()
    site.start_api()
    assert site.request("GET", "/health").status == 503
    took = away(site, server, 3, signal.SIGTERM)
    assert took < COMES_BACK_S + SLACK_S


def test_workers_move_within_seconds(tcp_site):
    """Both away, one after the other, while a worker runs."""
    site = tcp_site
    site.both()
    for cid, name, server in ((1, "a.mp4", site.db), (2, "b.mp4", site.redis)):
        server.stop()
        until = time.monotonic() + 3
        wait_until(lambda until=until: time.monotonic() >= until, 10)
        server.start()
        served(site)
        assert site.post(cid, 1500).status == 200
        site.wait_moved(cid, name, "silver", timeout=10)
