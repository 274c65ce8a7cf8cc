"""What the API benches share: one private Redis and one private MariaDB with 100,000 contents, the servers that are
compared, and the two load generators. All of it listens on loopback or on unix sockets and ends with the bench.

Every server under test talks to the same Redis (append-only file on, as README.md advises; BENCH_REDIS holds further
arguments of redis-server, such as '--appendonly no') and the same MariaDB, both through unix sockets. Redis is
emptied before each round.
"""
import contextlib
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness.servers import ROOT, Failed, MariaDB, Redis, Tierd, die_with_parent, free_port, stop_process  # noqa: E402

OUT = ROOT / "build" / "bench"
LOAD = OUT / "load"
CONTENTS = 100_000
COUNT_MAX = 2999  # counts from 0 to this: with levels from 0, 1000 and 2000 on, two posts of three want a move
LEVELS = {"bronze": 0, "silver": 1000, "gold": 2000}
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
ROUND_SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
REDIS_ARGS = os.environ.get("BENCH_REDIS", "").split()
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
# As long as the JSON that tierd answers with.
FIXED_BODY = ('{"cid": "12345", "count": "1964", "target": "silver", "db_level": "bronze", "filename": "12345.mp4", '
              '"worker_id": null, "status": "update"}')


def cpu_s(*pids):
    """Seconds of processor time of these processes so far, all their threads (proc(5), fields 14 and 15)."""
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def rss_kib(pid):
    return int(re.search(r"^VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M).group(1))


class Peer:
    """A server under test: `host`, `port`, `pids` of what works, and how wrk is told to post to it."""
    name = host = ""
    process = None
    kind = "form"
    warm_s = 1

    def spawn(self, command, env=None):
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=open(OUT / f"{self.name}.log", "wb"), env={**os.environ, **(env or {})},
                                        preexec_fn=die_with_parent(), start_new_session=True)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name} did not start, see {OUT / self.name}.log")
            time.sleep(0.02)

    def close(self):
        stop_process(self.process)


class TierdApi(Peer):
    name = "tierd"

    def __init__(self, lab, *args):
        self.tierd = Tierd("--role=api", "--listen=127.0.0.1:0", f"--redis={lab.redis.url}", f"--db={lab.db.url}",
                           "--log-level=warn", *args)
        self.host, port = self.tierd.address.rsplit(":", 1)
        self.port = int(port)
        self.pids = self.tierd.children()

    def close(self):
        self.tierd.stop()


class Nginx(Peer):
    name, host = "nginx", "127.0.0.1"

    def __init__(self, lab):
        self.port = free_port()
        conf = OUT / "nginx.conf"
        conf.write_text(f"""daemon off; worker_processes auto; pid {OUT}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; default_type application/json;
  client_body_temp_path {OUT}/nginx.tmp; proxy_temp_path {OUT}/nginx.tmp; fastcgi_temp_path {OUT}/nginx.tmp;
  uwsgi_temp_path {OUT}/nginx.tmp; scgi_temp_path {OUT}/nginx.tmp;
  server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 '{FIXED_BODY}'; }} }}
}}
""")
        self.spawn(["nginx", "-p", OUT, "-c", conf])
        self.pids = children(self.process.pid, CORES)


class Webdis(Peer):
    name, host, kind = "webdis", "127.0.0.1", "webdis"

    def __init__(self, lab):
        self.port = free_port()
        conf = OUT / "webdis.json"
        conf.write_text(f"""{{"redis_host": "{lab.redis.socket}", "redis_port": 0, "redis_auth": null, "database": 1,
"http_host": "127.0.0.1", "http_port": {self.port}, "threads": {CORES}, "pool_size": 20, "daemonize": false,
"verbosity": 0, "logfile": "{OUT}/webdis.log", "acl": []}}""")
        self.spawn(["webdis", conf])
        self.pids = [self.process.pid]


class Flask(Peer):
    name, host = "flask", "127.0.0.1"
    warm_s = 2  # each worker connects to the database with its first request

    def __init__(self, lab):
        self.port = free_port()
        workers = 2 * CORES + 1  # gunicorn's own advice; its sync workers were faster here than its threads
        self.spawn(["gunicorn", "--bind", f"127.0.0.1:{self.port}", "--workers", workers, "--preload",
                    "--log-level", "error", "--chdir", HERE, "flask_post:app"],
                   env={"BENCH_REDIS": str(lab.redis.socket), "BENCH_DB": str(lab.db.socket)})
        self.pids = children(self.process.pid, workers)


PEERS = {p.name: p for p in (TierdApi, Nginx, Webdis, Flask)}


def children(pid, at_least):
    deadline = time.monotonic() + 30
    while True:
        found = subprocess.run(["pgrep", "-P", str(pid)], text=True, capture_output=True, check=False).stdout.split()
        if len(found) >= at_least or time.monotonic() > deadline:
            return [int(p) for p in found]
        time.sleep(0.02)


class Lab:
    def __init__(self):
        OUT.mkdir(parents=True, exist_ok=True)
        for old in ("redis", "db"):
            shutil.rmtree(OUT / old, ignore_errors=True)
        self.redis, self.db = Redis(OUT / "redis", *REDIS_ARGS, net="unix"), MariaDB(OUT / "db", net="unix")

    def __enter__(self):
        try:
            self.redis.start()
            self.db.install().start()
            self.db.load("schema.sql")
            self.db.sql("".join(f"INSERT INTO level VALUES ('{n}', '/srv/{n}', {c});" for n, c in LEVELS.items()))
            names = list(LEVELS)
            for first in range(1, CONTENTS + 1, 5000):
                self.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
                            + ",".join(f"({i},'{names[i % 3]}','{i}.mp4')" for i in range(first, first + 5000)))
            self.db.sql("ANALYZE TABLE contents, level")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.redis.close()
        self.db.close()
        for old in ("redis", "db"):
            shutil.rmtree(OUT / old, ignore_errors=True)

    @contextlib.contextmanager
    def serving(self, name, *args):
        """One server, started on an emptied Redis, ended after its round."""
        self.redis.cli("FLUSHALL")
        peer = PEERS[name](self, *args)
        try:
            yield peer
        finally:
            peer.close()

    def pids(self, peer):
        return {"server": peer.pids, "redis": [self.redis.process.pid], "mariadb": [self.db.process.pid]}


def run_wrk(peer, connections, seconds, settled):
    return subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "5s",
         "-s", HERE / "post.lua", f"http://{peer.host}:{peer.port}/post_sentence", "--", str(CONTENTS),
         str(COUNT_MAX), peer.kind, "settled" if settled else "mixed", str(time.monotonic_ns() % 100_000)],
        text=True, capture_output=True, check=False, preexec_fn=die_with_parent())


def warm(peer, settled=False):
    """So that connections, caches and workers are there before something is measured."""
    run_wrk(peer, 64, peer.warm_s, settled)


class Wrk:
    """One run of wrk: posts a second, microseconds, errors, processor time of each part."""

    def __init__(self, peer, connections=64, seconds=ROUND_SECONDS, watched=None, settled=False):
        before = {part: cpu_s(*pids) for part, pids in (watched or {}).items()}
        times = os.times()
        result = run_wrk(peer, connections, seconds, settled)
        found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", result.stdout, re.M)
        if not found or found.group(1) == "0":
            raise Failed(f"wrk against {peer.name} failed:\n{result.stdout}{result.stderr}")
        self.posts, took_us, broken, refused, self.p50_us, self.p99_us = map(int, found.groups())
        self.errors = broken + refused
        self.rate = self.posts / (took_us / 1e6)
        after = os.times()
        self.cpu_us = {part: (cpu_s(*pids) - before[part]) / self.posts * 1e6
                       for part, pids in (watched or {}).items()}
        self.cpu_us["wrk"] = (after.children_user + after.children_system - times.children_user
                              - times.children_system) / self.posts * 1e6


class Paced:
    """One run of the open-loop generator at `rate` posts a second."""

    def __init__(self, peer, rate, connections=64, seconds=ROUND_SECONDS):
        result = subprocess.run(
            [LOAD, peer.host, str(peer.port), f"{rate:.0f}", str(seconds), str(connections), str(CONTENTS),
             str(COUNT_MAX)], text=True, capture_output=True, check=False, preexec_fn=die_with_parent())
        if result.returncode != 0:
            raise Failed(f"the paced load against {peer.name} failed: {result.stderr}")
        n, self.errors, self.p50_us, self.p99_us, self.p999_us, self.max_us, _ = map(int, result.stdout.split())
        self.rate = rate


def median(values):
    return statistics.median(values)


class Report:
    """Prints a text table and keeps it under build/bench."""

    def __init__(self, name):
        self.path = OUT / f"{name}.txt"
        self.path.write_text("")

    def line(self, text=""):
        print(text, flush=True)
        with self.path.open("a") as f:
            f.write(text + "\n")
