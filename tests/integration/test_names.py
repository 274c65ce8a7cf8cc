"""Names of servers: looked up within a deadline, whatever the name server does, and every address is tried."""
import ctypes
import os
import pathlib
import random
import socket
import subprocess
import time

import pytest

from conftest import Site, wait_until
from harness.names import NameServer
from harness.servers import LIBC, TIERD

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18  # sched.h, sys/mount.h
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a name server of our own takes port 53 and a mount: root")
NOBODY = "127.9.9.9"  # refuses every connection


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Names:
    """A name server at an address that nobody else has, and processes that ask it and nobody else."""

    def __init__(self, folder, *search):
        while True:
            address = f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}"
            try:
                self.server = NameServer(socket.socket, address)
                break
            except OSError:
                pass
        self.file = pathlib.Path(folder) / "resolv.conf"
        self.file.write_text(f"nameserver {address}\n" + (f"search {' '.join(search)}\n" if search else ""))

    def enter(self):
        """In the new process, before it begins."""
        target = pathlib.Path("/etc/resolv.conf").resolve()
        check(LIBC.unshare(CLONE_NEWNS))
        check(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        check(LIBC.mount(os.fsencode(self.file), os.fsencode(target), None, MS_BIND, None))

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.server.close()


class Named(Site):
    """A site whose servers have names."""

    def __init__(self, names, *args):
        super().__init__(*args)
        self.names, self.dns = names, names.server
        self.dns.set("redis.test", "127.0.0.1")
        self.dns.set("db.test", "127.0.0.1")

    def common(self):
        return [f"--redis=redis://redis.test:{self.redis.port}/1", f"--db=mysql://root@db.test:{self.db.port}/tierd"]

    def start(self, *args, **kwargs):
        return super().start(*args, **{**kwargs, "enter": self.names.enter})

    def health(self):
        began = time.monotonic()
        answer = self.request("GET", "/health")
        assert time.monotonic() - began < 1.0
        return answer

    def wait_served(self, timeout):
        wait_until(lambda: self.post(1, 1964).status == 200, timeout, "a post that is served")

    def command(self, *words):
        return subprocess.run([TIERD, *words, *self.common()], capture_output=True, text=True, timeout=30,
                              preexec_fn=self.names.enter, check=False)


@pytest.fixture
def named(own_servers, tmp_path):
    with Names(tmp_path) as names:
        s = Named(names, *own_servers, tmp_path / "levels")
        s.sample()
        yield s
        s.close()


def test_a_silent_name_server_at_the_start(named):
    named.dns.silent = True
    named.start_api()
    for _ in range(5):
        assert named.health().status == 503
    named.dns.silent = False
    named.wait_served(3)
    named.start_worker()
    named.wait_moved(1, "a.mp4", "silver")


def test_a_silent_name_server_later(named):
    """The last good address is kept, and used at once."""
    named.both()
    named.wait_served(5)
    named.dns.silent = True
    for server in (named.redis, named.db):
        server.stop()
        server.start()
        named.wait_served(1.5)
    assert named.health().status == 200
    named.wait_moved(1, "a.mp4", "silver")


def test_a_name_that_is_no_more_is_not_kept(named):
    named.start_api()
    named.wait_served(5)
    named.dns.set("redis.test")
    named.redis.stop()
    named.redis.start()
    named.api.wait_line("redis.test: there is no such name")
    assert named.health().status == 503
    named.dns.set("redis.test", "127.0.0.1")
    named.wait_served(1.5)


@pytest.mark.parametrize("which", ["redis", "db"])
@pytest.mark.parametrize("first", [NOBODY, "127.0.0.1"])
def test_every_address_is_tried(named, which, first):
    """The API, workers and commands."""
    named.dns.set(f"{which}.test", first, NOBODY, "127.0.0.1")
    worker = named.both()
    named.wait_served(5)
    named.wait_moved(1, "a.mp4", "silver")
    assert named.api.count("is away") == 0 and worker.count("is away") == 0
    status = named.command("status")
    assert status.returncode == 0 and status.stdout.startswith("redis ok   database ok   ")
    server = getattr(named, which)
    server.stop()
    server.start()
    named.wait_served(1.5)


def test_every_address_of_the_api_is_tried(named):
    named.dns.set("api.test", NOBODY, "127.0.0.1")
    named.start_api()
    port = named.api.address.rsplit(":", 1)[1]
    named.start("--role=worker", f"--api=http://api.test:{port}", "--workers=1", *[f"--root={r}" for r in named.roots],
                *named.common())
    named.wait_served(5)
    named.wait_moved(1, "a.mp4", "silver")


def test_a_cut_answer_is_asked_for_over_tcp(named):
    named.dns.truncate = True
    named.both()
    named.wait_served(5)
    named.wait_moved(1, "a.mp4", "silver")
    assert named.command("status").returncode == 0


def test_a_search_domain_whose_server_fails(own_servers, tmp_path):
    with Names(tmp_path, "first.test", "second.test") as names:
        s = Named(names, *own_servers, tmp_path / "levels")
        s.sample()
        names.server.refuse("first.test")
        for name in ("redis", "db"):
            names.server.set(f"{name}.second.test", "127.0.0.1")
        s.common = lambda: [f"--redis=redis://redis:{s.redis.port}/1", f"--db=mysql://root@db:{s.db.port}/tierd"]
        try:
            s.both()
            s.wait_served(5)
            s.wait_moved(1, "a.mp4", "silver")
            assert s.command("status").returncode == 0
            assert names.server.count("redis.first.test")
        finally:
            s.close()


def test_a_name_server_that_is_slow_for_commands(named):
    """A command ends, and says why."""
    named.dns.silent = True
    began = time.monotonic()
    result = named.command("explain", "1")
    assert result.returncode == 69 and "no name server answers" in result.stderr and "redis.test" in result.stderr
    assert time.monotonic() - began < 5
