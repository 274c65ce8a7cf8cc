"""Commits that are wanted at the same time share one UPDATE; each must still be what it would be alone."""
import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import threading
import time

import pytest
from conftest import sha, wait_until
from harness import strace
from harness.servers import TIERD


@pytest.fixture
def api(site):
    site.start_api()
    return site


def contents(site, cids, target="gold"):
    """Contents at bronze whose move to `target` is done and not committed, as a worker leaves it."""
    site.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
                + ", ".join(f"({cid}, 'bronze', '{cid}.bin')" for cid in cids))
    commands = []
    for cid, seen in site.db.sql(f"SELECT cid, update_time FROM contents WHERE cid IN ({','.join(map(str, cids))})"):
        name = f"{cid}.bin"
        text = json.dumps({"cid": cid, "count": "2500", "target": target, "db_level": "bronze", "filename": name,
                           "worker_id": "w", "status": "done"})
        head = text[:text.index('"w"')]
        commands += [["SET", cid, text],
                     ["HSET", f"tierd:job:{cid}", "state", "done", "rev", "1", "src", "bronze", "target", target,
                      "seen", seen, "filename", name, "head", head, f"spare:{target}", "0"]]
    quoted = "".join(" ".join(json.dumps(word) for word in command) + "\n" for command in commands)
    subprocess.run(site.redis.command(), input=quoted, text=True, check=True,
                   capture_output=True)


class Updates:
    """POST /update_sentence of each cid on a connection of its own, all sent before any answer is read."""

    def __init__(self, site, cids):
        host, port = site.api.address.rsplit(":", 1)
        self.lines = [(cid, socket.create_connection((host, int(port)), timeout=30)) for cid in cids]
        for cid, line in self.lines:
            body = b"cid=%d" % cid
            line.sendall(b"POST /update_sentence HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                         b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(body)
                         + body)

    def statuses(self):
        """[(cid, status)]"""
        answers = []
        for cid, line in self.lines:
            out = b""
            while chunk := line.recv(65536):
                out += chunk
            line.close()
            head, body = out.decode().split("\r\n\r\n", 1)
            status = int(head.split()[1])
            if status not in (500, 503):
                assert body == (str(cid) if status == 200 else "check your status again")
            answers.append((cid, status))
        return answers


@contextlib.contextmanager
def holding(site, statements):
    """Somebody else's session has done these."""
    client = subprocess.Popen([*site.db.command(), "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        client.stdin.write(f"{statements}; SELECT 'held';\n")
        while client.stdout.readline().strip() != "held":
            assert client.poll() is None
        yield
    finally:
        client.stdin.close()
        client.wait()


def locked(site, cid):
    return holding(site, f"BEGIN; SELECT cid FROM contents WHERE cid = {cid} FOR UPDATE")


def number(site, name):
    return int(site.db.sql(f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])


def scripts(site):
    """How many script calls Redis has answered."""
    stats = site.redis.cli("INFO", "commandstats")
    return int(re.search(r"cmdstat_evalsha:calls=(\d+)", stats)[1])


def levels(site):
    return {int(cid): level for cid, level in site.db.sql("SELECT cid, content_level FROM contents")}


def state(site, cid):
    return site.redis.cli("HGET", f"tierd:job:{cid}", "state")


def wait_for_lock(site):
    wait_until(lambda: number(site, "Innodb_row_lock_current_waits") > 0, what="an UPDATE that waits for a lock")


def test_commits_that_wait_go_together(api):
    """While one UPDATE is under way a hundred others are wanted: a few statements do for all."""
    cids = range(1, 101)
    contents(api, [*cids, 999])
    with locked(api, 999):
        before = number(api, "Com_update")
        first = Updates(api, [999])
        wait_for_lock(api)
        others = Updates(api, cids)
        # on a slow machine the first may have given up, and the next have been committed already
        wait_until(lambda: scripts(api) >= 101, what="all jobs are known")
    assert {status for _, status in others.statuses()} == {200}
    first.statuses()  # 503 where the lock took too long
    assert number(api, "Com_update") - before < 20
    assert {cid: level for cid, level in levels(api).items() if cid != 999} == dict.fromkeys(cids, "gold")
    assert {state(api, cid) for cid in cids} == {"committed"}
    assert api.redis.cli("HGET", "tierd:stats", "moves") in ("100", "101")


def test_each_commit_of_a_batch_is_judged_by_its_own_row(api):
    """Rows that somebody changed by hand among rows that nobody did, and one that is where it shall be."""
    cids = range(1, 61)
    contents(api, cids)
    api.db.sql("UPDATE contents SET content_level = 'silver' WHERE cid % 6 = 1;"
               "UPDATE contents SET filename = CONCAT('other/', filename) WHERE cid % 6 = 2;"
               "UPDATE contents SET update_time = update_time + INTERVAL 1 MICROSECOND WHERE cid % 6 = 3;"
               "UPDATE contents SET content_level = 'gold' WHERE cid % 6 = 4;"
               "DELETE FROM contents WHERE cid = 60")
    rows = dict(api.db.sql("SELECT cid, CONCAT(content_level, filename, update_time) FROM contents"))
    answers = dict(Updates(api, cids).statuses())
    good = [cid for cid in cids if cid % 6 in (0, 4, 5) and cid != 60]
    assert answers == {cid: 200 if cid in good else 409 for cid in cids}
    after = levels(api)
    assert {after[cid] for cid in good} == {"gold"}
    now = dict(api.db.sql("SELECT cid, CONCAT(content_level, filename, update_time) FROM contents"))
    assert all(now[cid] == rows[cid] for cid in now if int(cid) % 6 in (1, 2, 3, 4))
    for cid in cids:
        assert state(api, cid) == ("committed" if cid in good else "queued"), cid


def test_one_content_many_times_at_once(api):
    contents(api, [1, 2])
    seen = api.db.sql("SELECT update_time FROM contents ORDER BY cid")
    answers = Updates(api, [1, 2] * 60).statuses()
    assert {status for _, status in answers} == {200}
    assert levels(api) == {1: "gold", 2: "gold"}
    now = api.db.sql("SELECT update_time FROM contents ORDER BY cid")
    assert now[0] > seen[0] and now[1] > seen[1]
    assert {status for _, status in Updates(api, [1, 2]).statuses()} == {200}
    assert api.db.sql("SELECT update_time FROM contents ORDER BY cid") == now
    assert api.redis.cli("HGET", "tierd:stats", "moves") == "2"


def test_a_row_that_the_database_refuses_fails_alone(api):
    """Its level has gone: a foreign key's error is about the statement as a whole."""
    contents(api, range(1, 41))
    contents(api, [50], target="platinum")
    with locked(api, 1):  # so that all others, the bad one among them, share a statement
        first = Updates(api, [1])
        wait_for_lock(api)
        others = Updates(api, [*range(2, 41), 50])
        answers = dict(others.statuses())
        first.statuses()
    assert answers == {**dict.fromkeys(range(2, 41), 200), 50: 500}
    assert levels(api) == {**dict.fromkeys(range(2, 41), "gold"), 50: "bronze", 1: levels(api)[1]}


def test_a_row_that_is_locked_holds_no_other_up(api):
    contents(api, range(1, 41))
    with locked(api, 20):
        answers = dict(Updates(api, range(1, 41)).statuses())
        assert answers == {cid: 503 if cid == 20 else 200 for cid in range(1, 41)}
        assert {cid for cid, level in levels(api).items() if level != "gold"} == {20}
    assert wait_until(lambda: api.update(20).status == 200, what="the row is free")
    assert levels(api)[20] == "gold"


def test_update_time_grows_when_the_clock_does_not(api):
    contents(api, [1, 2, 3])
    api.db.sql("UPDATE contents SET update_time = '2100-01-01'")
    for cid in (1, 2, 3):
        api.redis.cli("HSET", f"tierd:job:{cid}", "seen", "2100-01-01 00:00:00.000000")
    assert {status for _, status in Updates(api, [1, 2, 3]).statuses()} == {200}
    assert {time for time, in api.db.sql("SELECT update_time FROM contents")} == {"2100-01-01 00:00:00.000001"}


def test_health_does_not_wait_behind_statements_that_do(api):
    """Look-ups, commits, the levels and the count of files all wait for locked tables, for as long as the API lets them."""
    contents(api, range(1, 9))
    over = threading.Event()
    def ask(method, path, *body):
        while not over.is_set():
            api.request(method, path, *body)
    others = [threading.Thread(target=ask, args=args) for args in
              [("POST", "/post_sentence", "cid=1&count=1"), ("GET", "/status"),
               *(("POST", "/update_sentence", f"cid={cid}") for cid in range(1, 9))]]
    with holding(api, "LOCK TABLES contents WRITE, level WRITE"):
        for thread in others:
            thread.start()
        slowest, end = 0, time.monotonic() + 7
        while time.monotonic() < end:
            started = time.monotonic()
            health = api.request("GET", "/health")
            slowest = max(slowest, time.monotonic() - started)
            assert health.status == 200, health.body
        over.set()
    for thread in others:
        thread.join()
    assert slowest < 0.5
    assert api.api.count("takes the database too long") == 1 and api.api.count("database is away") == 0


def test_contents_may_be_a_view(view_site):
    """It has no index that an UPDATE could name."""
    cids = range(1, 41)
    view_site.start_api()
    contents(view_site, cids)
    assert {status for _, status in Updates(view_site, cids).statuses()} == {200}
    assert set(levels(view_site).values()) == {"gold"}


# ---- while a commit waits ----

@contextlib.contextmanager
def a_commit_waits(site, *args, data=b"a" * 5000, enter=None):
    """The copy stands in gold, its done is noted, the API is away; it comes back at the end."""
    site.add(1, "a", "bronze", data)
    site.start_api()
    assert site.post(1, 2500).status == 200
    address = site.api.address
    site.api.stop()
    worker = site.start_worker(*args, workers=1, enter=enter)
    worker.wait_line("the API is away, the commit waits")
    yield worker
    site.api = site.start("--role=api", f"--listen={address}", *site.common())


def without_override():
    """What root reads although its mode does not allow it, the process does not."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_source_that_cannot_be_read_while_its_commit_waits(two_fs):
    """It was not written to since it was copied: the copy is what it holds."""
    site = two_fs
    with a_commit_waits(site, enter=without_override):
        digest = sha(site.paths["bronze"] / "a")
        (site.paths["bronze"] / "a").chmod(0)
    wait_until(lambda: site.level(1) == "gold", 30, "the commit")
    assert sha(site.paths["gold"] / "a") == digest


def test_a_source_that_is_no_file_while_its_commit_waits(two_fs):
    """That is not put off for ever: the job ends, and says why."""
    site = two_fs
    with a_commit_waits(site):
        (site.paths["bronze"] / "a").rename(site.paths["bronze"] / "b")
        (site.paths["bronze"] / "a").mkdir()
    wait_until(lambda: site.job(1)["status"] == "dead", 60, "the end of the job")
    assert "before its commit: it is not a regular file" in site.job(1)["error"]
    assert site.level(1) == "bronze" and (site.paths["gold"] / "a").exists()


@pytest.mark.parametrize("json_of", ["another wish", "nothing of ours"])
def test_what_another_program_wrote_while_a_commit_waits(two_fs, json_of):
    """The copy is out of date, and is taken back whatever stands in the JSON's place; what is wanted there counts."""
    site = two_fs
    with a_commit_waits(site) as worker:
        (site.paths["bronze"] / "a").write_bytes(b"new" * 3000)
        wish = {"cid": "1", "count": "1500", "target": "silver", "db_level": "bronze", "filename": "a", "worker_id": None,
                "status": "update"}
        site.redis.cli("SET", "1", json.dumps(wish if json_of == "another wish" else ["nothing of ours"]))
        worker.wait_line("was written to after it was copied")
    site.wait_moved(1, "a", "silver" if json_of == "another wish" else "gold")
    assert (site.paths[site.level(1)] / "a").read_bytes() == b"new" * 3000


def test_a_copy_that_is_out_of_date_is_nobodys_move(two_fs):
    """What it was made of was written to, and then has no name for a while: readers are not sent to the copy."""
    site = two_fs
    source = site.paths["bronze"] / "a"
    with a_commit_waits(site) as worker:
        (site.paths["bronze"] / "b").write_bytes(b"another")
        source.write_bytes(b"new" * 3000)
        worker.wait_line("was written to after it was copied")
        source.rename(site.paths["bronze"] / "new")
    wait_until(lambda: site.job(1)["status"] in ("dead", "done"), 60, "the end of the job")
    assert "an older file stands in gold" in site.job(1)["error"] and site.level(1) == "bronze"
    (site.paths["bronze"] / "new").rename(source)
    subprocess.run([TIERD, "retry", "1", *site.common()], check=True, capture_output=True)
    site.wait_moved(1, "a", "gold")
    assert (site.paths["gold"] / "a").read_bytes() == b"new" * 3000


@pytest.mark.skipif(strace.available() is not None, reason=str(strace.available()))
def test_a_stop_while_the_copy_is_compared_before_its_commit(two_fs):
    """That says nothing of the files: no attempt is spent, and the next worker goes on."""
    site = two_fs
    with a_commit_waits(site, "--drain-timeout=4s", data=b"a" * (20 << 20)) as worker:
        child, = worker.children()
        with strace.Strace(child, "trace=pread64", "inject=pread64:delay_enter=200000") as trace:
            os.utime(site.paths["bronze"] / "a")  # so that it is read again
            wait_until(lambda: sum("524288" in line for line in trace.lines()) > 2, what="it is compared")
            assert worker.stop() == 0
    job = dict(zip(*[iter(site.redis.cli("HGETALL", "tierd:job:1").split("\n"))] * 2))
    assert job["error"] == "abandoned" and "attempts" not in job and job["state"] == "done"
    site.start_worker()
    site.wait_moved(1, "a", "gold")
