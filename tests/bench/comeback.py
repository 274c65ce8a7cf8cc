"""`make bench BENCH=comeback`: how soon everything goes on after Redis, or MariaDB, was away.

Each is ended RESTARTS times (50), in turn by SIGTERM and SIGKILL, stays away for 0 to 2 s, and is started again. Counted
from the moment that the server itself answers (PONG; the greeting of MariaDB): until the API takes a post ("served"), and
until the move that this post asked for has ended ("moved"). Over TCP on 127.0.0.1; with --town by name between hosts
(harness/town.py, as root). What is not served in LIMIT_S (20) is counted, and tierd started anew. LOAD more clients (0)
post all the time. SEED for the same choices. Nothing is asserted.
"""
import argparse
import contextlib
import http.client
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from bench.lab import OUT, Report  # noqa: E402
from harness.pipes import Http, Resp, connect  # noqa: E402
from harness.servers import Failed, MariaDB, Redis, Tierd  # noqa: E402
from harness.town import Town  # noqa: E402

RESTARTS, LOAD = int(os.environ.get("RESTARTS", "50")), int(os.environ.get("LOAD", "0"))
LIMIT_S = float(os.environ.get("LIMIT_S", "20"))
SEED = int(os.environ.get("SEED", "1"))
AWAY_S = 2.0
POST_TIMEOUT_S = 10
POLL_S = 0.001
GREETING = 0x0a  # the first byte of MariaDB's first packet, behind four of its head: the protocol's version


def redis_answers(redis):
    line = Resp(redis.address, 0)
    try:
        return line("PING") == "PONG"
    except (OSError, Failed):
        return False
    finally:
        line.close()


def db_answers(db):
    with contextlib.suppress(OSError), connect(db.address, 5) as s:
        return s.recv(5)[4:5] == bytes([GREETING])
    return False


def until(condition, limit_s, pause_s=POLL_S):
    """Whether it came true in that time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True


class Rig:
    """Redis, MariaDB, an API, a worker, and one content that goes to and fro."""

    def __init__(self, stack, folder):
        self.folder, self.tierd = folder, []
        self.make_servers(stack)
        for path in ("gold", "bronze"):
            (folder / path).mkdir()
        self.redis.start()
        self.start_db()
        self.db.sql(f"INSERT INTO level VALUES ('bronze', '{folder}/bronze', 0), ('gold', '{folder}/gold', 1000);"
                    "INSERT INTO contents (cid, content_level, filename) VALUES (1, 'bronze', '1.bin')")
        (folder / "bronze" / "1.bin").write_bytes(os.urandom(4096))
        self.at, self.away = "bronze", "gold"
        stack.callback(self.stop_tierd)
        self.start_tierd()

    def make_servers(self, stack):
        self.redis, self.db = Redis(self.folder / "redis", net="tcp"), MariaDB(self.folder / "db", net="tcp")
        stack.callback(self.redis.close)
        stack.callback(self.db.close)

    def start_db(self):
        self.db.install().start()
        self.db.load("schema.sql")

    def start_tierd(self):
        common = [f"--redis={self.redis.url}", f"--db={self.db.url}", "--log-level=error"]
        api = Tierd("--role=api", "--listen=127.0.0.1:0", *common)
        self.api_address = api.address
        self.tierd = [api, Tierd("--role=worker", f"--api=http://{api.address}", f"--root={self.folder}", "--workers=1", *common)]

    def stop_tierd(self):
        for process in reversed(self.tierd):
            process.stop()
        self.tierd = []

    def send(self, body):
        connection = Http(self.api_address, POST_TIMEOUT_S)
        try:
            connection.request("POST", "/post_sentence", body, {"Content-Type": "application/x-www-form-urlencoded"})
            return connection.getresponse().status
        finally:
            connection.close()

    def post(self, count):
        """Whether it was taken."""
        try:
            return self.send(f"cid=1&count={count}") == 200
        except (OSError, http.client.HTTPException):
            return False

    def start_move(self):
        return self.post(5000 if self.away == "gold" else 0)

    def has_moved(self):
        return (self.folder / self.away / "1.bin").exists() and not (self.folder / self.at / "1.bin").exists()


class TownRig(Rig):
    def make_servers(self, stack):
        self.town = stack.enter_context(Town())
        self.redis, self.db = self.town.redis, self.town.db

    def start_db(self):
        self.db.start()

    def start_tierd(self):
        self.town.api.start("--log-level=error")
        self.town.storage[0].start(f"--root={self.folder}", "--workers=1", "--log-level=error")

    def stop_tierd(self):
        self.town.stop()

    def send(self, body):
        return self.town.api.request("POST", "/post_sentence", body, timeout=POST_TIMEOUT_S).status


def restart(rig, server, answers, sig, away_s):
    """Seconds until served and until moved; None is: not in time."""
    server.stop(sig)
    time.sleep(away_s)
    server.launch()
    if not until(lambda: answers(server), 60):
        raise Failed(f"{type(server).__name__} did not start")
    began = time.monotonic()
    if not until(rig.start_move, LIMIT_S):
        return None, None
    served = time.monotonic() - began
    if not until(rig.has_moved, LIMIT_S):
        return served, None
    rig.at, rig.away = rig.away, rig.at
    return served, time.monotonic() - began


def mend(rig):
    """After one that was not in time: tierd anew, and the content at rest."""
    rig.stop_tierd()
    rig.start_tierd()
    if not until(rig.start_move, LIMIT_S, 0.05) or not until(rig.has_moved, 3 * LIMIT_S):
        raise Failed("tierd does not move after it was started anew")
    rig.at, rig.away = rig.away, rig.at


def load(rig, stop):
    while not stop.wait(0.001):
        with contextlib.suppress(OSError, http.client.HTTPException):
            rig.send("cid=999&count=1")


def told(times):
    good = sorted(t for t in times if t is not None)
    late = len(times) - len(good)
    text = f"{good[len(good) // 2] * 1000:>8.0f} {good[-1] * 1000:>8.0f}" if good else f"{'-':>8} {'-':>8}"
    return f"{text} {late:>6}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--town", action="store_true", help="between hosts, by name")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    report, rng, stop = Report("comeback"), random.Random(SEED), threading.Event()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tierd-bench.", dir="/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, True)
        folder.chmod(0o755)
        rig = (TownRig if args.town else Rig)(stack, folder)
        threads = [threading.Thread(target=load, args=(rig, stop), daemon=True) for _ in range(LOAD)]
        stack.callback(lambda: [t.join() for t in threads])
        stack.callback(stop.set)
        for thread in threads:
            thread.start()
        report.line(f"ms from the server's first answer; late: not in {LIMIT_S:g} s; {RESTARTS} restarts of each, seed {SEED}, "
                    f"{'between hosts, by name' if args.town else 'TCP on 127.0.0.1'}, {LOAD} more clients")
        report.line(f"{'':<10}{'served p50':>11} {'max':>8} {'late':>6}{'moved p50':>12} {'max':>8} {'late':>6}")
        for name, server, answers in (("redis", rig.redis, redis_answers), ("mariadb", rig.db, db_answers)):
            served, moved = [], []
            for n in range(RESTARTS):
                took = restart(rig, server, answers, (signal.SIGTERM, signal.SIGKILL)[n % 2], rng.uniform(0, AWAY_S))
                served.append(took[0])
                moved.append(took[1])
                if None in took:
                    mend(rig)
            report.line(f"{name:<10}   {told(served)}    {told(moved)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
