"""/health answers within a second, whatever hangs."""
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time

import pytest

from conftest import Site, wait_until
from harness.pipes import Http
from harness.proxy import Proxy
from harness.servers import TIERD, die_with_parent, freeze, stop_process, thaw

WITHIN_S = 1.0
ASK_S = 3


def health(address):
    began = time.monotonic()
    http = Http(address)
    try:
        http.request("GET", "/health")
        response = http.getresponse()
        said = json.loads(response.read())
    finally:
        http.close()
    took = time.monotonic() - began
    assert took < WITHIN_S, f"{took:.2f} s"
    return response.status, said


def always(address, part):
    """Asks for some seconds; in the end `part` alone is down."""
    end = time.monotonic() + ASK_S
    while time.monotonic() < end:
        status, said = health(address)
    assert status == 503 and said[part] == "down" and {"redis": "db", "db": "redis"}[part] in said
    assert said[{"redis": "db", "db": "redis"}[part]] == "ok"


@pytest.fixture
def own(own_servers, tmp_path):
    s = Site(*own_servers, tmp_path / "levels")
    s.sample()
    yield s
    s.close()


def through(site, part, port):
    redis = site.redis.url if part == "db" else f"redis://127.0.0.1:{port}/1"
    db = site.db.url if part == "redis" else f"mysql://root@127.0.0.1:{port}/tierd"
    site.common = lambda: [f"--redis={redis}", f"--db={db}"]


@pytest.mark.parametrize("part", ["redis", "db"])
def test_half_open_connections(own, part):
    """Neither side is told that nothing passes any more."""
    with Proxy(getattr(own, part).address) as cable:
        through(own, part, cable.port)
        own.start_api()
        wait_until(lambda: health(own.api.address)[0] == 200, what="health")
        cable.hold()
        always(own.api.address, part)
        cable.go()
        wait_until(lambda: health(own.api.address)[0] == 200, 15, "health")


@pytest.mark.parametrize("part", ["redis", "db"])
def test_a_server_that_accepts_nobody(own, part):
    """Its queue of connections is full, so that further ones are not even refused."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            s = stack.enter_context(socket.socket())
            s.setblocking(False)
            s.connect_ex(full.getsockname())
        through(own, part, full.getsockname()[1])
        own.start_api()
        always(own.api.address, part)


def fill(pipe):
    """Until it takes no byte more, however small the write."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")


def drain(pipe):
    out = b""
    while select.select([pipe], [], [], 0.2)[0] and (chunk := os.read(pipe, 65536)):
        out += chunk
    return out.decode()


def test_a_log_that_nobody_reads(own):
    """The API goes on, and what was lost is counted when somebody reads again."""
    ours, theirs = os.pipe()
    process = subprocess.Popen([TIERD, "--role=api", "--listen=127.0.0.1:0", *own.common()], stderr=theirs,
                               preexec_fn=die_with_parent(), start_new_session=True)
    try:
        said = b""
        while b"ready role=api" not in said:
            said += os.read(ours, 65536)
        address = said.decode().split("listen=")[1].split()[0]
        filler = os.open(f"/proc/self/fd/{theirs}", os.O_WRONLY | os.O_NONBLOCK)
        os.close(theirs)
        fill(filler)
        own.redis.stop()  # which it says, or tries to
        wait_until(lambda: health(address)[0] == 503, what="redis is down")
        own.db.stop()
        always_down = time.monotonic() + ASK_S
        while time.monotonic() < always_down:
            assert health(address)[0] == 503
        assert process.poll() is None
        drain(ours)
        os.close(filler)
        own.redis.start()
        own.db.start()
        wait_until(lambda: health(address)[0] == 200, what="health")
        assert "lines of the log are lost, nobody read them" in drain(ours)
    finally:
        stop_process(process)
        os.close(ours)


@contextlib.contextmanager
def bindfs(below, where):
    """A mount that hangs while its process is stopped."""
    mount = subprocess.Popen(["bindfs", "-f", "-o", "nonempty", below, where], preexec_fn=die_with_parent())
    try:
        wait_until(lambda: os.path.ismount(where), what="the mount")
        yield mount
    finally:
        thaw(mount.pid)
        subprocess.run(["umount", "-l", where], check=False)
        stop_process(mount)


@pytest.mark.parametrize("how", ["file", "pipe"])
def test_a_log_file_on_a_disk_that_hangs(own, tmp_path, how):
    """Who writes a line into a file waits for its disk, as the manual says; behind a pipe another program does."""
    for name in ("below", "logs"):
        (tmp_path / name).mkdir()
    with contextlib.ExitStack() as stack:
        mount = stack.enter_context(bindfs(tmp_path / "below", tmp_path / "logs"))
        err = stack.enter_context(open(tmp_path / "logs" / "tierd.log", "ab"))
        if how == "pipe":
            writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=err, preexec_fn=die_with_parent())
            stack.callback(stop_process, writer)
            err = stack.enter_context(writer.stdin)
        process = subprocess.Popen([TIERD, "--role=api", "--listen=127.0.0.1:0", *own.common()], stderr=err,
                                   preexec_fn=die_with_parent(), start_new_session=True)
        stack.callback(stop_process, process)
        stack.callback(thaw, mount.pid)
        log = tmp_path / "below" / "tierd.log"
        wait_until(lambda: "ready role=api" in log.read_text(), what="a start")
        address = log.read_text().split("listen=")[1].split()[0]
        wait_until(lambda: health(address)[0] == 200, what="health")
        freeze(mount.pid)
        own.redis.stop()  # which it says
        if how == "pipe":
            wait_until(lambda: health(address)[0] == 503, what="redis is down")
        else:
            with pytest.raises(TimeoutError):
                while True:
                    with contextlib.closing(Http(address, timeout=2 * ASK_S)) as http:
                        http.request("GET", "/health")
                        http.getresponse().read()
        thaw(mount.pid)
        own.redis.start()
        wait_until(lambda: health(address)[0] == 200, what="health")
        wait_until(lambda: "redis is away" in log.read_text(), what="its line")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_level_that_hangs(own, tmp_path):
    """The API looks at no disk."""
    below = tmp_path / "below"
    below.mkdir()
    gold = own.paths["gold"]
    with bindfs(below, gold) as mount:
        own.both()
        wait_until(lambda: health(own.api.address)[0] == 200, what="health")
        freeze(mount.pid)
        assert own.post(4, 5000).status == 200
        end = time.monotonic() + ASK_S
        while time.monotonic() < end:
            assert health(own.api.address)[0] == 200
        thaw(mount.pid)
        for process in reversed(own.running):
            process.stop()
