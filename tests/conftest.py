"""Shared servers, a clean catalogue for each test, and everything a test starts ended after it."""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness.pipes import Http, connect, parse  # noqa: E402
from harness.servers import NET, NETS, MariaDB, Redis, Tierd, free_port  # noqa: E402,F401

pytest_plugins = ["town.fixtures"]
LEVELS = {"bronze": 0, "silver": 1000, "gold": 2000}


def wait_until(condition, timeout=20, what="it"):
    """Polls a condition of the outside world; the time-out is only for a run that hangs."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen in {timeout} s")
        time.sleep(0.01)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read().decode()


class Site:
    """A catalogue, its files, and the tierd processes of one test."""

    def __init__(self, redis, db, folder, other=None):
        self.redis, self.db = redis, db
        self.folder = pathlib.Path(folder)
        self.paths = {name: self.folder / name for name in LEVELS}
        if other:
            self.paths["gold"] = pathlib.Path(other) / "gold"
        self.roots = sorted({str(p.parent) for p in self.paths.values()})
        for path in self.paths.values():
            path.mkdir(parents=True)
        self.running = []
        self.api = None
        self.api_net = "tcp"
        redis.cli("FLUSHALL")
        db.sql("DELETE FROM contents; DELETE FROM level;")
        for name, count in LEVELS.items():
            db.sql(f"INSERT INTO level VALUES ('{name}', '{self.paths[name]}', {count})")

    def sample(self):
        for cid, (name, level) in enumerate(zip("abcdefgh", ["gold", "bronze", "silver", "bronze", "silver",
                                                             "gold", "bronze", "bronze"]), 1):
            self.add(cid, f"{name}.mp4", level, f"content {cid}".encode() * 100)

    def add(self, cid, name, level, data=None):
        quoted = name.replace("\\", "\\\\").replace("'", "''")
        self.db.sql(f"INSERT INTO contents (cid, content_level, filename) VALUES ({cid}, '{level}', '{quoted}')")
        if data is not None:
            path = self.paths[level] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def common(self):
        return [f"--redis={self.redis.url}", f"--db={self.db.url}"]

    def start(self, *args, **kwargs):
        process = Tierd(*args, **kwargs)
        self.running.append(process)
        return process

    def start_api(self, *args):
        listen = "127.0.0.1:0"
        if self.api_net == "unix":  # beside Redis' socket, for the path has to be short
            listen = f"unix:{self.redis.run}/api{len(self.running)}.sock"
        self.api = self.start("--role=api", f"--listen={listen}", *self.common(), *args)
        return self.api

    @property
    def api_url(self):
        return f"http{'+unix://' if self.api_net == 'unix' else '://'}{self.api.address.removeprefix('unix:')}"

    def start_worker(self, *args, workers=2, lease="2s", enter=None):
        roots = [f"--root={r}" for r in self.roots]
        return self.start("--role=worker", f"--api={self.api_url}", f"--workers={workers}",
                          f"--lease={lease}", "--scan-interval=200ms", *roots, *self.common(), *args, enter=enter)

    def both(self, **kwargs):
        self.start_api()
        return self.start_worker(**kwargs)

    def request(self, method, path, body=None, headers=None):
        connection = Http(self.api.address)
        try:
            sent = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
            connection.request(method, path, body=body, headers={**sent, **(headers or {})})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def post(self, cid, count):
        return self.request("POST", "/post_sentence", f"cid={cid}&count={count}")

    def update(self, cid):
        return self.request("POST", "/update_sentence", f"cid={cid}")

    def raw(self, data, shut=False, timeout=5):
        """Bytes in, bytes out until the server closes or is silent."""
        with connect(parse(self.api.address), timeout) as s:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            out = b""
            try:
                while chunk := s.recv(65536):
                    out += chunk
            except (TimeoutError, socket.timeout, ConnectionResetError):
                pass
            return out

    def level(self, cid):
        return self.db.sql(f"SELECT content_level FROM contents WHERE cid = {cid}")[0][0]

    def job(self, cid):
        text = self.redis.cli("GET", str(cid))
        return json.loads(text) if text else None

    def places(self, name):
        return [level for level, path in self.paths.items() if (path / name).exists()]

    def wait_moved(self, cid, name, level, timeout=30):
        wait_until(lambda: self.level(cid) == level and self.places(name) == [level], timeout,
                   f"{name} at {level} (row {self.level(cid)}, files {self.places(name)}, job {self.job(cid)})")

    def leftovers(self):
        """Private names but the markers; a folder that goes while it is looked at holds none."""
        return [os.path.join(folder, name) for path in self.paths.values() for folder, folders, names in os.walk(path)
                for name in (*folders, *names) if name.startswith(".tierd-") and name != ".tierd-level"]

    def close(self):
        for process in reversed(self.running):
            process.stop()


def sha(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


@contextlib.contextmanager
def started(folder, net=NET):
    redis, db = Redis(folder / "redis", net=net), MariaDB(folder / "db", net=net)
    try:
        redis.start()
        db.install().start()
        db.load("schema.sql")
        yield redis, db
    finally:
        redis.close()
        db.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    with started(tmp_path_factory.mktemp("servers")) as both:
        yield both


@pytest.fixture
def net(request):
    """How Redis, MariaDB and the API are reached, for a test that is marked with `both_nets` and so is run twice. None
    for others: TCP, or Redis and MariaDB as TIERD_TEST_NET says."""
    return getattr(request, "param", None)


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("both_nets"):
        metafunc.parametrize("net", NETS, indirect=True)


@pytest.fixture
def own_servers(tmp_path, net):
    """For tests that kill or stop them."""
    with started(tmp_path, net or NET) as both:
        yield both


@pytest.fixture
def shared_servers(servers, net):
    for server in servers:
        server.net = net or NET
    yield servers
    for server in servers:
        server.net = NET


def make_site(servers, tmp_path, other=None, net=None):
    s = Site(*servers, tmp_path / "levels", other)
    s.api_net = net or "tcp"
    return s


@pytest.fixture
def site(shared_servers, net, tmp_path):
    s = make_site(shared_servers, tmp_path, net=net)
    yield s
    s.close()


@pytest.fixture
def view_site(site):
    """`contents` is a view of a table that a site has already."""
    site.db.sql("RENAME TABLE contents TO films;"
                "CREATE VIEW contents AS SELECT cid, content_level, filename, generate_time, update_time FROM films")
    yield site
    site.close()
    site.db.sql("DROP VIEW contents; RENAME TABLE films TO contents")


@pytest.fixture
def own_site(own_servers, net, tmp_path):
    s = make_site(own_servers, tmp_path, net=net)
    yield s
    s.close()


@contextlib.contextmanager
def site_on_two(servers, tmp_path, net=None):
    """Gold lies on another file system (tmpfs) than the rest."""
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is on the same file system as the temporary folder")
    other = tempfile.mkdtemp(prefix="tierd-test.", dir="/dev/shm")
    s = make_site(servers, tmp_path, other, net)
    try:
        yield s
    finally:
        s.close()
        shutil.rmtree(other, ignore_errors=True)


@pytest.fixture
def two_fs(shared_servers, net, tmp_path):
    with site_on_two(shared_servers, tmp_path, net) as s:
        yield s


@pytest.fixture
def own_two_fs(own_servers, net, tmp_path):
    with site_on_two(own_servers, tmp_path, net) as s:
        yield s


@pytest.fixture
def mounted_tmpfs(tmp_path):
    """A file system of 8 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mount],
                                           capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield mount
    subprocess.run(["umount", mount], check=True)


# ---- fault tests ----

TABLE = []


def pytest_addoption(parser):
    parser.addoption("--faults", choices=("part", "full"), default="full",
                     help="part: a fixed choice of the tests with a fault, for `make test`; full: all of them")


def pytest_configure(config):
    config.addinivalue_line("markers", "full_only: a fault test that `make test` leaves out")
    config.addinivalue_line("markers", "both_nets: run over TCP, and through unix sockets")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--faults") == "part":
        left_out = [item for item in items if item.get_closest_marker("full_only")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def full(request):
    return request.config.getoption("--faults") == "full"


@pytest.fixture
def table():
    """Lines for the end of the report."""
    return TABLE


def pytest_terminal_summary(terminalreporter):
    for line in TABLE:
        terminalreporter.write_line(line)
