"""Rows of the fault matrix about Redis, MariaDB, the API and clocks."""
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from conftest import sha, wait_until
from harness.pipes import Resp
from harness.proxy import Proxy
from harness.servers import ROOT, TIERD, Redis, freeze, frozen, thaw
from harness.strace import Strace, available
from holding import (COMMITTING, COPIED, DURABLE, RENAMED, STANDS, changes, content, count_changes, held, hurry,
                     settled)

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))


SPIN_PER_S, SPIN_CPU_S = 200, 1.0   # what is below is no spinning: that makes thousands, and whole seconds


def info(redis, section, field):
    match = re.search(rf"^{field}[:=](?:count=)?(\d+)", redis.cli("INFO", section), re.M)
    return int(match[1]) if match else 0


def cpu_s(*processes):
    """Processor time of tierd's processes and their children."""
    ticks = 0
    for pid in [p for process in processes for p in (process.process.pid, *process.children())]:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_row_9_redis_loses_everything_in_the_middle(own_two_fs):
    """The worker's scripts fail: what is uncommitted is dropped, the level stays; a new post moves it."""
    site = own_two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    with held(worker, DURABLE, lambda: site.post(1, 5000)):
        site.redis.cli("FLUSHALL")
    worker.wait_line("abandoned|redis is away|lost", timeout=30)
    assert site.level(1) == "bronze" and site.places(name) == ["bronze"]
    wait_until(lambda: site.post(1, 5000).status == 200, what="the new post")
    settled(site, 1, name, "gold", digest)


@pytest.mark.parametrize("at,level", [
    (DURABLE, "bronze"),
    (STANDS, "bronze"),
    pytest.param(COMMITTING, "bronze", marks=pytest.mark.full_only),
    pytest.param(RENAMED, "gold", marks=pytest.mark.full_only),
], ids=["durable", "stands", "committing", "renamed"])
def test_row_9_redis_without_persistence_is_killed(own_two_fs, at, level):
    """It is back at once, and empty: the row decides; a copy that stands uncommitted is dropped by the one who made it."""
    site = own_two_fs
    site.redis.stop()
    site.redis.args = ("--appendonly", "no")
    site.redis.start()
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    child, = worker.children()
    with held(worker, at, lambda: site.post(1, 5000)):
        site.redis.stop(signal.SIGKILL)
        site.redis.start()
        assert site.redis.cli("DBSIZE") == "0"
    wait_until(lambda: "cmd=blpop" in site.redis.cli("CLIENT", "LIST"), 30, "the worker sleeps again")
    wait_until(lambda: site.places(name) == [level], 30, "the content stands once")
    assert site.level(1) == level and sha(site.paths[level] / name) == digest
    wait_until(lambda: site.post(1, 5000).status == 200, what="the new post")
    settled(site, 1, name, "gold", digest)
    assert worker.children() == [child]


def test_row_11_a_stale_done_from_an_old_snapshot(two_fs):
    """The UPDATE finds no such row: the job is planned anew, the file stays where the row says."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    with held(worker, COMMITTING, lambda: site.post(1, 5000)) as child:
        old = site.redis.cli("GET", "1")
        fields = site.redis.cli("HGETALL", "tierd:job:1").split("\n")
        os.kill(child, signal.SIGKILL)
    settled(site, 1, name, "gold", digest)
    site.post(1, 0)
    settled(site, 1, name, "bronze", digest)
    worker.stop()
    site.redis.cli("SET", "1", old)
    site.redis.cli("HSET", "tierd:job:1", *fields)
    site.redis.cli("ZADD", "tierd:due", "1", "1")
    assert json.loads(old)["status"] == "done"
    site.start_worker(workers=1, lease="1s")
    wait_until(lambda: site.redis.cli("EXISTS", "tierd:job:1") == "0", 60, "the end of the stale job")
    settled(site, 1, name, site.level(1), digest)


def test_row_18_the_api_is_down(two_fs, full):
    """For ten minutes in the full run: `done` waits, other jobs are copied meanwhile, nothing spins, no attempt is spent."""
    site, seconds = two_fs, 600 if full else 3
    name, digest = content(site)
    other, other_digest = content(site, 2)
    worker = site.both(workers=1, lease="2s")
    address = site.api.address
    with held(worker, COMMITTING, lambda: site.post(1, 5000)):
        site.running.remove(site.api)
        site.api.process.kill()
        site.api.process.wait()
    began, before = time.monotonic(), cpu_s(worker)
    worker.wait_line("the API is away", timeout=30)
    site.redis.cli("SET", "2", json.dumps({"cid": "2", "count": "5000", "target": "gold", "db_level": "bronze",
                                           "filename": other, "worker_id": None, "status": "update"}))
    wait_until(lambda: site.job(2)["status"] == "done", 60, "the other job is copied")
    while time.monotonic() - began < seconds:
        for cid, file, whole in ((1, name, digest), (2, other, other_digest)):
            assert site.level(cid) == "bronze" and site.job(cid)["status"] == "done"
            assert sha(site.paths["bronze"] / file) == sha(site.paths["gold"] / file) == whole
        time.sleep(0.5)
    lines, used = worker.count("the API is away"), cpu_s(worker) - before
    assert lines < 4 * (seconds + 10) and used < SPIN_CPU_S + 0.02 * seconds, f"{lines} lines, {used} s of processor time"
    assert worker.count("will be tried again") == 0
    site.api = site.start("--role=api", f"--listen={address}", *site.common())
    settled(site, 1, name, "gold", digest)
    settled(site, 2, other, "gold", other_digest)


def test_row_19_the_api_accepts_and_hangs(two_fs):
    """A time-out, no second commit; when the API answers again the move ends."""
    site = two_fs
    name, digest = content(site)
    site.start_api()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        real = site.api
        site.api = type("Silent", (), {"address": f"127.0.0.1:{silent.getsockname()[1]}"})
        worker = site.start_worker(workers=1, lease="1s")
        site.api = real
        site.post(1, 5000)
        worker.wait_line("the API is away", timeout=30)
        assert site.level(1) == "bronze" and sorted(site.places(name)) == ["bronze", "gold"]
        worker.stop()
    site.start_worker(workers=1, lease="1s")
    settled(site, 1, name, "gold", digest)


@pytest.mark.parametrize("fault", ["ECONNREFUSED", "ETIMEDOUT"])
def test_one_of_several_connections_to_the_api_cannot_be_had(two_fs, fault):
    """The commits of a group go over the connections that stand: none of them waits for a better time."""
    site = two_fs
    site.start_api()
    contents = {cid: content(site, cid) for cid in range(1, 8)}
    worker = site.start_worker(workers=1, lease="5s")
    site.redis.cli("HSET", "tierd:paused", "@all", "0")
    for cid in contents:
        site.post(cid, 5000)
    child, = worker.children()
    with Strace(child, "trace=connect", f"inject=connect:error={fault}:when=2+") as trace:
        site.redis.cli("HSET", "tierd:paused", "@all", "1")
        for cid, (name, digest) in contents.items():  # groups of 1, 2 and 4
            settled(site, cid, name, "gold", digest)
        assert any("INJECTED" in rest for _, rest in trace.calls())
    assert worker.count("the API is away") == 0


def test_row_38_a_post_between_done_and_commit(two_fs):
    """The API commits first, then the post counts."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, COMMITTING, lambda: site.post(1, 5000)):
        assert site.job(1)["status"] == "done" and site.level(1) == "bronze"
        answer = json.loads(site.post(1, 1500).body)
        assert (answer["target"], answer["db_level"]) == ("silver", "gold") and site.level(1) == "gold"
    settled(site, 1, name, "silver", digest)


def test_rows_40_and_41_parallel_updates(site):
    """Many updates at two APIs: one change of the row; before that, none."""
    name, digest = content(site)
    site.start_api()
    first = site.api
    site.start_api()
    assert site.update(1).status == 409
    site.post(1, 1500)
    assert (site.update(1).status, site.update(1).body) == (409, "check your status again")
    site.post(1, 0)  # stays, after all
    worker = site.start_worker(workers=1, lease="2s")
    apis, answers = [first, site.api], []
    with held(worker, COMMITTING, lambda: site.post(1, 1500)):
        assert site.job(1)["status"] == "done"

        def many(address):
            client = type(site).__new__(type(site))
            client.api = type("At", (), {"address": address})
            answers.extend(client.update(1).status for _ in range(50))
        threads = [threading.Thread(target=many, args=(apis[i % 2].address,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = site.db.sql("SELECT update_time FROM contents WHERE cid = 1")
    assert len(answers) == 400 and set(answers) == {200}
    settled(site, 1, name, "silver", digest)
    assert site.db.sql("SELECT update_time FROM contents WHERE cid = 1") == seen


def test_row_12_a_replica_is_promoted_without_the_lock(own_two_fs, tmp_path):
    """Two workers hold the same job: the token fences the first, the content moves once."""
    site = own_two_fs
    name, digest = content(site)
    replica = Redis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(site.redis.port))
    try:
        replica.start()
        wait_until(lambda: "master_link_status:up" in replica.cli("INFO", "replication"), 30, "the replica is in step")
        worker = site.both(workers=1, lease="1s")
        with held(worker, DURABLE, lambda: site.post(1, 5000)):
            wait_until(lambda: replica.cli("EXISTS", "lock:1") == "1", what="the replica knows the job")
            site.redis.stop()
            replica.cli("REPLICAOF", "NO", "ONE")
            replica.cli("DEL", "lock:1")
            replica.replace(site.redis)
            other = site.start_worker(workers=1, lease="1s")
            other.wait_line("is put off.*locked", timeout=30)  # claimed, but the first still holds the file
        settled(site, 1, name, "gold", digest)
        assert worker.count("a child died") == other.count("a child died") == 0
    finally:
        site.close()
        replica.close()


def test_row_13_redis_stands_still(own_two_fs, full):
    """It accepts and says nothing, 30 s in the full run: posts are refused in time, nothing spins; one commit."""
    site, seconds = own_two_fs, 30 if full else 3
    name, digest = content(site)
    other, other_digest = content(site, 2)
    count_changes(site)
    worker = site.both(workers=1, lease="1s")
    child, = worker.children()
    with held(worker, DURABLE, lambda: site.post(1, 5000)):
        freeze(site.redis.process.pid)
    began, before = time.monotonic(), cpu_s(site.api, worker)
    while time.monotonic() - began < seconds:
        started = time.monotonic()
        assert site.post(2, 5000).status == 503
        assert time.monotonic() - started < 1.5
        assert site.level(1) == "bronze" and sha(site.paths["bronze"] / name) == digest
        time.sleep(0.5)
    used = cpu_s(site.api, worker) - before
    thaw(site.redis.process.pid)
    settled(site, 1, name, "gold", digest)
    wait_until(lambda: site.post(2, 5000).status == 200, what="the post is taken")
    settled(site, 2, other, "gold", other_digest)
    assert (changes(site, 1), changes(site, 2)) == (1, 1)
    assert used < SPIN_CPU_S, f"{used} s of processor time"
    assert worker.children() == [child]


def test_row_14_redis_that_takes_no_writes(own_two_fs):
    """It passes by itself, costs no attempt, and nothing spins."""
    site = own_two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    with held(worker, DURABLE, lambda: site.post(1, 5000)):
        site.redis.cli("REPLICAOF", "127.0.0.1", "1")
        assert "READONLY" in site.redis.cli("SET", "x", "1")
    assert site.post(1, 5000).status == 503
    assert sha(site.paths["bronze"] / name) == digest and site.level(1) == "bronze"
    site.redis.cli("REPLICAOF", "NO", "ONE")
    settled(site, 1, name, "gold", digest)
    assert worker.count("a child died") == 0 and worker.count("will be tried again") == 0


def test_row_14_scripts_are_flushed_all_the_time(two_fs):
    """Whatever is called may be unknown by then: a worker sends it whole, the API loads all anew and asks once more."""
    site, cids = two_fs, range(1, 31)
    found = {cid: content(site, cid) for cid in cids}
    worker = site.both()
    before, stop = info(site.redis, "errorstats", "errorstat_NOSCRIPT"), threading.Event()

    def flush():
        redis = Resp(site.redis.address, 1)
        while not stop.wait(0.005):
            redis("SCRIPT", "FLUSH")
        redis.close()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        for cid in cids:
            wait_until(lambda cid=cid: site.post(cid, 5000).status == 200, what="the post is taken")
        for cid, (name, digest) in found.items():
            settled(site, cid, name, "gold", digest)
    finally:
        stop.set()
        thread.join()
    assert info(site.redis, "errorstats", "errorstat_NOSCRIPT") > before, "no call met a flush"
    assert worker.count("will be tried again|put off|a child died") == 0


LOAD_KEYS, LOAD_KEY_US = 5000, 1000   # some seconds of loading, whatever the disk


def test_row_14_redis_is_loading(own_two_fs):
    """It was restarted with much to load: posts are refused at once with a hint, nothing spins, all goes on after."""
    site = own_two_fs
    redis = site.redis
    name, digest = content(site)
    other, other_digest = content(site, 2)
    redis.cli("CONFIG", "SET", "appendfsync", "always")
    redis.cli("EVAL", f"for i = 1, {LOAD_KEYS} do redis.call('SET', 'filler:' .. i, i) end", "0", db=0)
    redis.cli("BGREWRITEAOF")  # from a snapshot it loads piecewise, and answers in between
    wait_until(lambda: not info(redis, "persistence", "aof_rewrite_(?:in_progress|scheduled)"), what="the snapshot")
    worker = site.both(workers=1, lease="1s")
    children = worker.children()
    with held(worker, DURABLE, lambda: site.post(1, 5000)):
        redis.stop()
        redis.args = ("--key-load-delay", str(LOAD_KEY_US), "--loading-process-events-interval-bytes", "1024")
        redis.launch()
        wait_until(lambda: info(redis, "persistence", "loading"), what="redis is loading")
    before, started = cpu_s(site.api, worker), time.monotonic()
    answers = [site.post(2, 5000)]
    assert time.monotonic() - started < 1.5
    health = site.request("GET", "/health")
    while True:
        seen, took = info(redis, "errorstats", "errorstat_LOADING"), time.monotonic() - started
        used, passed = cpu_s(site.api, worker) - before, len(answers)
        answer, level = site.post(2, 5000), site.level(1)
        if not info(redis, "persistence", "loading"):
            break
        assert level == "bronze" and sha(site.paths["bronze"] / name) == digest
        answers.append(answer)
        time.sleep(0.1)
    assert passed > 5 and {a.status for a in answers} == {503} and all(a.headers["Retry-After"] for a in answers)
    assert health.status == 503 and json.loads(health.body)["redis"] == "refuses us: LOADING Redis is loading the dataset in memory"
    assert seen < SPIN_PER_S * took, f"{seen} commands were refused in {took:.1f} s"
    assert used < SPIN_CPU_S, f"{used} s of processor time"
    redis.wait()
    settled(site, 1, name, "gold", digest)
    wait_until(lambda: site.post(2, 5000).status == 200, what="the post is taken")
    settled(site, 2, other, "gold", other_digest)
    assert worker.count("a child died") == 0 and worker.children() == children


LOG_WRITE = "inject=pwrite64:signal=KILL:when=1"      # on entry: the transaction's log is not written
LOG_SYNC = "inject=fdatasync:signal=KILL:when=1"      # written; what the kernel has outlives the process
ANSWER = "inject=fdatasync:delay_exit=3000000:when=1"  # durable, not yet answered: killed while it waits here


AIMS = 5  # the server writes its log by itself, too: a checkpoint or a purge may come first, and takes the fault


def kill_database_at(site, worker, cid, at):
    """Posts for `cid`, and kills the database at that call on its log when the move is to be committed."""
    site.db.sql("SET GLOBAL innodb_flush_log_at_timeout = 2700")  # no flush of its own every second
    with held(worker, COMMITTING, lambda: site.post(cid, 5000)) as child:
        database = site.db.process
        with Strace(database.pid, "trace=pwrite64,fdatasync", at, follow=True, path=site.db.data / "ib_logfile0") as trace:
            os.kill(child, signal.SIGCONT)
            if at == ANSWER:
                wait_until(lambda: any("(DELAYED)" in line for line in trace.lines()), what="the log is durable")
                database.kill()
            database.wait(60)


@pytest.mark.parametrize("at,level", [(LOG_WRITE, "bronze"), (LOG_SYNC, "gold"), (ANSWER, "gold")],
                         ids=["before_the_log", "before_its_sync", "before_the_answer"])
def test_row_15_the_database_is_killed_around_its_commit(own_two_fs, at, level):
    """Whatever became of the UPDATE, the API reads it again; the row changes once."""
    site = own_two_fs
    count_changes(site)
    site.start_api()
    stopped = [site.api.process.pid, *site.api.children()]
    seen = []
    for cid in range(1, AIMS + 1):
        name, digest = content(site, cid)
        worker = site.start_worker(workers=1, lease="2s")  # one that has yet to connect to the API
        kill_database_at(site, worker, cid, at)
        with frozen(*stopped):
            site.db.start()
            seen.append(site.level(cid))
            assert sha(site.paths["bronze"] / name) == sha(site.paths["gold"] / name) == digest
        settled(site, cid, name, "gold", digest)
        assert changes(site, cid) == 1
        worker.stop()
        if seen[-1] == level:
            break
    assert seen[-1] == level, f"the database was never killed where it was meant to be: {seen}"


class Client:
    """A client of the database with a transaction of its own; what it cannot get it waits for."""

    def __init__(self, site, *statements):
        self.site = site
        self.process = subprocess.Popen(site.db.command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, bufsize=1)
        self.say("SET innodb_lock_wait_timeout = 120", "BEGIN", *statements)

    def say(self, *statements):
        self.process.stdin.write("".join(f"{s};\n" for s in statements))
        self.process.stdin.flush()

    def end(self):
        """Rolls back; what went wrong before."""
        with contextlib.suppress(OSError):
            self.say("ROLLBACK")
        return self.process.communicate(timeout=60)[1]


def transactions(site, condition):
    """How many there are. The table is refreshed only when nobody has read it for 0.1 s."""
    time.sleep(0.2)
    return int(site.db.sql(f"SELECT COUNT(*) FROM information_schema.innodb_trx WHERE {condition}")[0][0])


def status_of(db, name):
    return int(db.sql(f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])


# It has changed more than the API's statement: the deadlock's victim is the API.
HEAVY = [f"INSERT INTO ballast VALUES {', '.join(f'({n})' for n in range(200))}"]


@pytest.mark.parametrize("first,then", [("SELECT * FROM level WHERE level = 'gold' FOR UPDATE",
                                         "SELECT * FROM contents WHERE cid = 1 FOR UPDATE"),
                                        ("SELECT * FROM contents WHERE cid = 1 FOR UPDATE",
                                         "SELECT * FROM level WHERE level = 'gold' FOR UPDATE"),
                                        ("SELECT * FROM contents WHERE cid = 2 FOR UPDATE",
                                         "SELECT * FROM contents WHERE cid = 1 FOR UPDATE")],
                         ids=["level_and_row", "row_and_level", "two_rows"])
def test_row_16_a_deadlock(own_two_fs, first, then):
    """1213: another client holds what the UPDATE needs next, and wants what it has. Made again, once."""
    site = own_two_fs
    files = {cid: content(site, cid) for cid in (1, 2)}
    count_changes(site)
    site.db.sql("CREATE TABLE ballast (n INT) ENGINE=InnoDB")
    worker = site.both(workers=1, lease="2s")
    client = Client(site, *HEAVY, first)
    try:
        wait_until(lambda: transactions(site, "trx_rows_locked > 0") == 1, what="the client has its lock")
        site.post(1, 5000)
        site.post(2, 5000)
        wait_until(lambda: transactions(site, "trx_state = 'LOCK WAIT'"), 30, "the UPDATE waits")
        client.say(then)
        if "FROM level" in then:  # the UPDATE reads the level first
            wait_until(lambda: status_of(site.db, "Innodb_deadlocks") > 0, 30, "a deadlock")
    finally:
        said = client.end()
    assert said == "", "the client was not the victim"
    for cid, (name, digest) in files.items():
        settled(site, cid, name, "gold", digest)
        assert changes(site, cid) == 1
    assert worker.count("a child died") == 0 and worker.count("will be tried again") == 0


def test_row_16_a_row_that_is_locked(two_fs):
    """1205: the commit waits without an attempt, and is made when the lock is gone; one row change."""
    site = two_fs
    name, digest = content(site)
    site.db.sql("SET GLOBAL innodb_lock_wait_timeout = 1")
    client = subprocess.Popen(site.db.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        client.stdin.write("BEGIN; SELECT cid FROM contents WHERE cid = 1 FOR UPDATE;\n")
        client.stdin.flush()
        worker = site.both(workers=1, lease="1s")
        site.post(1, 5000)
        worker.wait_line("the commit waits", timeout=30)
        assert site.level(1) == "bronze" and site.job(1)["status"] == "done"
        client.stdin.write("ROLLBACK;\n")
        client.stdin.flush()
        settled(site, 1, name, "gold", digest)
    finally:
        client.stdin.close()
        client.wait()
        site.db.sql("SET GLOBAL innodb_lock_wait_timeout = 50")


def test_row_17_the_database_lost_the_commit(two_fs):
    """The row says bronze again, the file stands in gold alone: `tierd check --repair` corrects the row."""
    site = two_fs
    name, digest = content(site)
    site.both(workers=1)
    site.post(1, 5000)
    settled(site, 1, name, "gold", digest)
    site.db.sql("UPDATE contents SET content_level = 'bronze' WHERE cid = 1")
    command = [TIERD, "check", "--repair", *[f"--root={r}" for r in site.roots], *site.common()]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "elsewhere" in out and "1 mended" in out
    assert site.level(1) == "gold" and sha(site.paths["gold"] / name) == digest


class Clock:
    """The clock of Redis' host, which is set while Redis runs (clock.c)."""

    def __init__(self, site):
        self.file = site.redis.data / "clock"
        self.file.write_bytes(struct.pack("=q", 0))
        preload = shutil.copy(ROOT / "build" / "faults" / "clock.so", site.redis.data)
        site.redis.stop()
        site.redis.env = {"LD_PRELOAD": str(preload), "CLOCK_OFFSET_FILE": str(self.file)}
        site.redis.start()
        self.redis = site.redis

    def set(self, seconds):
        before = self.now()
        with open(self.file, "r+b") as f:
            f.write(struct.pack("=q", seconds))
        assert abs(self.now() - before - seconds) < 60

    def now(self):
        return int(self.redis.cli("TIME").split("\n")[0])


@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["back", "forward"])
def test_row_34_the_clock_of_redis_is_set(own_two_fs, seconds):
    """By an hour, while one child is about to publish, others move, one job waits for its next attempt and others for
    their turn. Back: nothing waits for the clock to catch up. Forward: leases have ended early, a double claim is
    harmless."""
    site = own_two_fs
    clock = Clock(site)
    count_changes(site)
    contents = {cid: content(site, cid) for cid in range(1, 41)}
    worker = site.both(workers=1, lease="2s")
    with open(site.paths["bronze"] / contents[1][0], "rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        site.post(1, 5000)
        worker.wait_line("1.bin is put off")
        wait_until(lambda: site.redis.cli("EXISTS", "lock:1") == "0", what="it waits")
    with held(worker, DURABLE, lambda: site.post(2, 5000)):
        other = site.start_worker("--bandwidth=1M", workers=2, lease="2s")
        for cid in range(3, 41):
            site.post(cid, 5000)
        other.wait_line("finished|moves bronze to gold")
        clock.set(seconds)
    began = time.monotonic()
    for cid, (name, digest) in contents.items():
        settled(site, cid, name, "gold", digest)
    assert time.monotonic() - began < 60
    assert [changes(site, cid) for cid in contents] == [1] * len(contents)
    assert worker.count("a child died|will be tried again") + other.count("a child died|will be tried again") == 0


@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["back", "forward"])
def test_row_34_the_clock_of_redis_is_set_after_a_worker_died(own_two_fs, seconds):
    """What it held is not held for longer than its lease, and is claimed by the others, who slept."""
    site = own_two_fs
    clock = Clock(site)
    name, digest = content(site)
    worker = site.both(workers=1, lease="10s")
    with held(worker, DURABLE, lambda: site.post(1, 5000)) as child:
        worker.process.kill()
        worker.process.wait()
        os.kill(child, signal.SIGKILL)
        other = site.start_worker(workers=1, lease="10s")
        wait_until(lambda: "cmd=blpop" in site.redis.cli("CLIENT", "LIST"), 30, "the other sleeps")
        assert site.redis.cli("EXISTS", "lock:1") == "1"
        clock.set(seconds)
    settled(site, 1, name, "gold", digest)
    assert other.count("a child died") == 0


@contextlib.contextmanager
def cabled(site, *args, **kwargs):
    """A worker whose connections to Redis go through a cable, and an API whose do not."""
    straight = site.common
    with Proxy(site.redis.address) as cable:
        site.start_api()
        site.common = lambda: [f"--redis=redis://{cable.host}:{cable.port}/1", f"--db={site.db.url}"]
        worker = site.start_worker(*args, workers=1, **kwargs)
        site.common = straight
        yield cable, worker


def test_redis_goes_while_a_worker_starts(two_fs):
    """Its connection breaks when the levels are read, after it stood: for each child, the looker and the others."""
    site = two_fs
    site.start_api()
    with Proxy(site.redis.address) as cable:
        straight = site.common
        site.common = lambda: [f"--redis=redis://{cable.host}:{cable.port}/1", straight()[1]]
        cable.tear_at = b"tierd:levels"
        worker = site.start_worker(workers=4)
        for _ in range(4):
            wait_until(lambda: cable.tear_at is None, what="a connection is torn")
            cable.tear_at = b"tierd:levels"
        cable.tear_at = None
        name, digest = content(site)
        site.post(1, 5000)
        settled(site, 1, name, "gold", digest)
        assert worker.count("a child died") == 0


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_an_end_that_redis_was_not_told(two_fs, lost):
    """It is told again as it was, and counts once: the job does not begin anew to fail anew."""
    site = two_fs
    site.add(1, "1.bin", "bronze")  # without its file
    with cabled(site, lease="30s") as (cable, worker):
        cable.tear_at, cable.lost = b"the source file does not exist", lost
        site.post(1, 5000)
        wait_until(lambda: cable.tear_at is None, what="the connection is torn")
        wait_until(lambda: site.job(1)["status"] == "dead", what="dead")
        other, digest = content(site, 2)
        site.post(2, 5000)
        settled(site, 2, other, "gold", digest)
        assert site.job(1)["error"] == "the source file does not exist"
        assert worker.count("not exists") == 1 and site.redis.cli("HGET", "tierd:stats", "dead") == "1"


@pytest.mark.parametrize("back", [True, False], ids=["comes_back", "stays_away"])
def test_stopped_while_redis_is_owed_an_end(two_fs, back):
    """A worker that is told to stop pays first, when Redis comes back within the drain time-out: nobody has to wait for
    the lease, nothing is counted. When it stays away the worker ends all the same, in time."""
    site = two_fs
    site.add(1, "1.bin", "bronze")  # without its file
    with cabled(site, "--drain-timeout=4s", lease="30s") as (cable, worker):
        cable.refuses, cable.tear_at = True, b"the source file does not exist"
        site.post(1, 5000)
        wait_until(lambda: cable.tear_at is None, what="the connection is torn")
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_line("stopping")
        if back:
            cable.refuses = False
        assert worker.process.wait(30) == 0
        worker.reader.join()
        assert worker.count("drain time-out is over|crash") == 0
        assert (site.job(1)["status"], site.redis.cli("EXISTS", "lock:1")) == (("dead", "0") if back else ("update", "1"))


def test_an_end_that_redis_refuses(two_fs):
    """What cannot be told of one job does not keep the worker from the others; the job comes back by its lease."""
    site = two_fs
    name, digest = content(site)
    other, other_digest = content(site, 2)
    worker = site.both(workers=1, lease="2s")
    with held(worker, COPIED, lambda: site.post(1, 5000)):
        site.redis.cli("HSET", "tierd:job:1", "waits", "no number")
        os.utime(site.paths["bronze"] / name)  # so that it is put off, which is counted
    worker.wait_line("redis refuses the end of a claim.*not an integer")
    site.post(2, 5000)
    settled(site, 2, other, "gold", other_digest)
    site.redis.cli("HSET", "tierd:job:1", "waits", "0")
    settled(site, 1, name, "gold", digest)


def test_a_lock_that_is_somebody_elses_key(two_fs):
    """The claim is lost, as if another worker had it; the job waits until that key is gone, and is said to."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, COPIED, lambda: site.post(1, 5000)):
        site.redis.cli("DEL", "lock:1")
        site.redis.cli("LPUSH", "lock:1", "no string")
    site.api.wait_line("the key lock:1 in redis holds a list where tierd keeps a string")
    assert site.level(1) == "bronze" and site.places(name) == ["bronze"]
    assert worker.count("level=error") == 0
    site.redis.cli("DEL", "lock:1")
    settled(site, 1, name, "gold", digest)


def test_row_49_the_network_to_redis_is_cut(two_fs):
    """The worker stops before it publishes; another one that reaches Redis moves the content, once."""
    site = two_fs
    name, digest = content(site, data=os.urandom(24 * 2**20))
    with cabled(site, "--bandwidth=4M", lease="2s") as (cable, cut_off):
        site.post(1, 5000)
        cut_off.wait_line(rf"{name} moves")
        cable.hold()
        other = site.start_worker(workers=1, lease="2s")
        other.wait_line(rf"{name} moves", timeout=30)
        wait_until(lambda: site.level(1) == "gold", 60, "the other worker moved it")
        assert sha(site.paths["gold"] / name) == digest
        cable.go()
        settled(site, 1, name, "gold", digest)
        assert cut_off.count("a child died") == 0


@pytest.mark.full_only
@pytest.mark.parametrize("part,at", [("redis", DURABLE), ("db", RENAMED), ("api", COMMITTING)], ids=["redis", "db", "api"])
def test_row_55_stopped_while_a_server_hangs(own_two_fs, part, at):
    """What the child still asks has its time-outs: together they fit into the drain time-out; nothing has to be killed."""
    site = own_two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    hangs = site.api.children() if part == "api" else [getattr(site, part).process.pid]
    with held(worker, at, lambda: site.post(1, 5000)):
        freeze(*hangs)
        worker.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    status = worker.process.wait(60)
    took = time.monotonic() - started
    worker.reader.join()
    assert status == 0 and worker.count("drain time-out is over") == 0, f"after {took} s"
    thaw(*hangs)
    level = site.level(1)
    assert sha(site.paths[level] / name) == digest
    site.start_worker(workers=1, lease="1s")
    wait_until(lambda: hurry(site, 1) or site.places(name) == ["gold"], 60, "the end of the move")
    settled(site, 1, name, "gold", digest)


RENAMES = [COPIED, DURABLE, STANDS, COMMITTING]
AT = ["copied", "durable", "stands", "committing"]


@pytest.mark.parametrize("at", RENAMES, ids=AT)
@pytest.mark.parametrize("post", [False, True], ids=["", "posted"])
def test_row_76_file_and_row_are_renamed_by_hand(two_fs, at, post):
    """The job is planned anew under the new name, our copy under the old one does not stay; also when a post tells of it."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, at, lambda: site.post(1, 5000)):
        (site.paths["bronze"] / name).rename(site.paths["bronze"] / "new name.bin")
        site.db.sql("UPDATE contents SET filename = 'new name.bin' WHERE cid = 1")
        if post:
            site.post(1, 6000)
    settled(site, 1, "new name.bin", "gold", digest)
    assert site.places(name) == [] and worker.count("the job is dead|not exists") == 0


def test_row_76_renamed_before_the_file_is_opened(two_fs):
    """The row was read, the file has another name: that is no missing file."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, "flock:signal=STOP:when=1", lambda: site.post(1, 5000)):
        pass
    settled(site, 1, name, "gold", digest)
    child, = worker.children()
    with Strace(child, "trace=openat2,openat", "inject=openat:delay_enter=1000000:when=1..2", path=site.paths["gold"]):
        before = len(worker.lines)
        site.post(1, 0)
        wait_until(lambda: site.redis.cli("EXISTS", "lock:1") == "1", what="it is claimed")
        (site.paths["gold"] / name).rename(site.paths["gold"] / "b.bin")
        site.db.sql("UPDATE contents SET filename = 'b.bin' WHERE cid = 1")
        settled(site, 1, "b.bin", "bronze", digest)
    assert not any("not exists" in line for line in worker.lines[before:])


def test_row_76_the_old_name_is_another_content_s_by_now(two_fs):
    """What stands under it is not ours to take, and neither is a file that took its place."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, COMMITTING, lambda: site.post(1, 5000)):
        (site.paths["bronze"] / name).rename(site.paths["bronze"] / "b.bin")
        site.db.sql(f"UPDATE contents SET filename = 'b.bin' WHERE cid = 1;"
                    f"INSERT INTO contents (cid, content_level, filename) VALUES (2, 'gold', '{name}')")
    settled(site, 1, "b.bin", "gold", digest)
    assert site.places(name) == ["gold"] and sha(site.paths["gold"] / name) == digest
    worker.wait_line(rf"{name} is left where it was put for gold")


def new_path(site, level):
    """The level's directory is another one from now on; the old one."""
    old = site.paths[level]
    site.paths[level] = old.parent / f"{level} elsewhere"
    site.paths[level].mkdir()
    site.db.sql(f"UPDATE level SET path = '{site.paths[level]}' WHERE level = '{level}'")
    return old


@pytest.mark.parametrize("at", RENAMES, ids=AT)
def test_row_77_the_path_of_a_level_is_changed_under_way(two_fs, at):
    """Never committed under the old path: the copy there goes, the job is planned anew to the new one."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, at, lambda: site.post(1, 5000)):
        old = new_path(site, "gold")
    wait_until(lambda: site.level(1) == "gold", 60, "the commit")
    assert sha(site.paths["gold"] / name) == digest
    settled(site, 1, name, "gold", digest)
    assert [p for p in old.rglob("*") if p.name != ".tierd-level"] == []
    site.api.wait_line("the path of the level changed while a file was moved into it")


def test_row_77_and_the_worker_is_killed(two_fs):
    """Another one takes the copy in the old directory away, if it is the one; a post that commits first finds out, too."""
    site = two_fs
    contents = {cid: content(site, cid) for cid in (1, 2)}
    name, digest = contents[1]
    worker = site.both(workers=1, lease="1s")
    for cid in (1, 2):
        with held(worker, COMMITTING, lambda cid=cid: site.post(cid, 5000)) as child:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: len(worker.children()) == 1 and worker.children() != [child], 60, "another child")
        if cid == 1:
            site.redis.cli("ZREM", "tierd:due", "1")
    old = new_path(site, "gold")
    os.replace(_foreign(old), old / contents[2][0])
    answer = json.loads(site.post(1, 5001).body)
    assert (answer["db_level"], answer["status"]) == ("bronze", "update")  # a worker may have moved it by now
    for cid in (1, 2):
        settled(site, cid, contents[cid][0], "gold", contents[cid][1])
    assert [p.name for p in old.rglob("*") if p.name != ".tierd-level"] == [contents[2][0]]
    assert (old / contents[2][0]).read_bytes() == b"somebody else's"


def _foreign(folder):
    path = folder / "foreign"
    path.write_bytes(b"somebody else's")
    return path


def test_row_77_a_job_of_an_older_tierd(two_fs):
    """It knows no path: it is committed as it was."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, COMMITTING, lambda: site.post(1, 5000)):
        assert site.redis.cli("HDEL", "tierd:job:1", "path", "name") == "2"
    settled(site, 1, name, "gold", digest)
    assert worker.count("the commit was refused") == 0


def test_row_77_the_path_of_the_content_s_level_is_changed_before_the_old_copy_goes(two_fs):
    """Right before it is deleted the database says another path than the one that was looked at: it is put back."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with held(worker, RENAMED, lambda: site.post(1, 5000)):
        old = new_path(site, "gold")
    wait_until(lambda: (site.paths["bronze"] / name).exists(), what="the old copy is put back")
    assert sha(site.paths["bronze"] / name) == digest
    (old / name).rename(site.paths["gold"] / name)
    wait_until(lambda: hurry(site, 1) or site.places(name) == ["gold"], 60, "the old copy goes")
    settled(site, 1, name, "gold", digest)
