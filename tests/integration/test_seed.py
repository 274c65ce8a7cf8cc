"""Workers of the kind that there was before tierd: they move a file, set the JSON to done, post /update_sentence."""
import contextlib
import json
import random
import re
import subprocess
import threading
import time

import pytest
from conftest import sha, wait_until
from harness import servers
from test_check import check

ROOT = servers.ROOT
CONTENTS = 150


class OldWorker:
    def __init__(self, site, mode):
        self.answers = []
        self.process = subprocess.Popen(
            ["/usr/bin/python3", ROOT / "tests" / "harness" / "seed_worker.py", str(site.redis.socket),
             f"http://{site.api.address}", json.dumps({n: str(p) for n, p in site.paths.items()}), mode],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, preexec_fn=servers.die_with_parent())
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            cid, status, body = line.split(" ", 2)
            self.answers.append((int(cid), status, body.strip()))

    def stop(self):
        servers.stop_process(self.process)
        self.reader.join(10)


@contextlib.contextmanager
def old_workers(site, mode, n):
    workers = [OldWorker(site, mode) for _ in range(n)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def fill(site, n=CONTENTS):
    """Contents at bronze; their hashes by cid."""
    rows = []
    for cid in range(1, n + 1):
        (site.paths["bronze"] / f"{cid}.bin").write_bytes(random.Random(cid).randbytes(2000 + 500 * cid))
        rows.append(f"({cid}, 'bronze', '{cid}.bin')")
    site.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES " + ", ".join(rows))
    return {cid: sha(site.paths["bronze"] / f"{cid}.bin") for cid in range(1, n + 1)}


def rows(site):
    return {int(cid): level for cid, level in site.db.sql("SELECT cid, content_level FROM contents")}


def assert_right(site, hashes):
    """Each file is where its row says, whole."""
    for cid, level in rows(site).items():
        assert sha(site.paths[level] / f"{cid}.bin") == hashes[cid], (cid, level)


def foreign(site, cid, source="bronze", target="gold", status="done", name=None, **more):
    """What another program writes."""
    job = {"cid": str(cid), "count": "2500", "target": target, "db_level": source, "filename": name or f"{cid}.bin",
           "worker_id": None, "status": status, **more}
    site.redis.cli("SET", str(cid), json.dumps(job))
    return job


def move_file(site, cid, source="bronze", target="gold"):
    (site.paths[source] / f"{cid}.bin").rename(site.paths[target] / f"{cid}.bin")


# ---- the API ----

@pytest.mark.parametrize("mode", ["plain", "lock"])
def test_old_workers_alone(two_fs, mode):
    """No worker of ours lives: each move is committed and answered, and little stays in Redis."""
    site = two_fs
    hashes = fill(site)
    site.start_api()
    with old_workers(site, mode, 2) as workers:
        for cid in hashes:
            assert site.post(cid, 2500).status == 200
        wait_until(lambda: set(rows(site).values()) == {"gold"}, 60, "every row says gold")
        wait_until(lambda: sum(a[1] == "200" for w in workers for a in w.answers) >= CONTENTS, what="the answers")
    answers = [a for w in workers for a in w.answers if a[1] != "not"]
    assert {a[0] for a in answers} == set(hashes)
    assert all(status == "200" and body == str(cid) for cid, status, body in answers)
    assert_right(site, hashes)
    assert all(site.job(cid)["status"] == "done" for cid in hashes)
    assert int(site.redis.cli("ZCARD", "tierd:due")) <= CONTENTS and site.redis.cli("HLEN", "tierd:job:1") in "01234567"
    status, out, _ = check(site)
    assert status == 0 and " 0 findings" in out
    site.start_worker()  # and whoever comes then has little to do
    wait_until(lambda: site.redis.cli("ZCARD", "tierd:due") == "0" and site.redis.cli("KEYS", "tierd:job:*") == "",
               what="nothing is under way")
    assert_right(site, hashes)
    status, out, _ = check(site)
    assert status == 0 and f"{CONTENTS} in order" in out and " 0 findings" in out


def test_what_is_committed_for_another_program(site):
    hashes = fill(site, 3)
    site.start_api()
    before = site.db.sql("SELECT update_time FROM contents WHERE cid = 1")
    move_file(site, 1)
    job = foreign(site, 1)
    for _ in range(2):  # again, because an answer may be lost
        answer = site.update(1)
        assert (answer.status, answer.body) == (200, "1")
        assert site.job(1) == job
    assert site.level(1) == "gold" and site.db.sql("SELECT update_time FROM contents WHERE cid = 1") > before
    assert int(site.redis.cli("PTTL", "1")) > 0
    assert site.redis.cli("HGET", "tierd:job:1", "state") == "cancelled"
    events = site.redis.cli("XRANGE", "tierd:events", "-", "+").splitlines()
    assert events.count("taken") == 1
    assert_right(site, hashes)


@pytest.mark.parametrize("wrong", [{"source": "silver"}, {"target": "attic"}, {"name": "other.bin"}, {"status": "update"}])
def test_what_is_not_committed(site, wrong):
    fill(site, 1)
    site.start_api()
    foreign(site, 1, **wrong)
    answer = site.update(1)
    assert (answer.status, answer.body) == (409, "check your status again") and site.level(1) == "bronze"


def test_any_way_to_write_it(site):
    """Other blanks, another order, a number for the cid, an error that was left there."""
    fill(site, 2)
    site.start_api()
    site.redis.cli("SET", "1", '{"status":"done","error":"x","cid":1,"count":2500,"target":"gold","db_level":"bronze",'
                               '"filename":"1.bin"}')
    assert site.update(1).status == 200 and site.level(1) == "gold"
    site.redis.cli("SET", "2", '{"status" : "done","cid":2,"count":2500,"target":"gold","db_level":"bronze","filename":"2.bin"}')
    move_file(site, 2)
    assert site.post(2, 1500).status == 200  # meets it, and helps
    assert site.level(2) == "gold" and site.job(2)["db_level"] == "gold" and site.job(2)["target"] == "silver"


@pytest.mark.parametrize("ttl", ["7d", "0"])
def test_a_done_counts_once(site, ttl):
    """The row was set back since, by somebody who moved the file back: what finished long ago is no reason."""
    site.start_api(f"--done-ttl={ttl}")
    worker = site.start_worker(f"--done-ttl={ttl}")
    fill(site, 2)
    assert site.post(1, 2500).status == 200
    site.wait_moved(1, "1.bin", "gold")
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="it is finished")
    worker.stop()
    move_file(site, 2)
    foreign(site, 2)
    assert site.update(2).status == 200
    for cid in (1, 2):
        move_file(site, cid, "gold", "bronze")
        site.db.sql(f"UPDATE contents SET content_level = 'bronze' WHERE cid = {cid}")
        assert site.update(cid).status == 409 and site.level(cid) == "bronze"
        assert site.post(cid, 1500).status == 200 and site.level(cid) == "bronze"
        assert site.job(cid)["db_level"] == "bronze" and site.job(cid)["target"] == "silver"


def test_a_post_commits_it_first(site):
    """A post that comes between `done` and /update_sentence: the file has moved, whatever is wanted by now."""
    hashes = fill(site, 2)
    site.start_api()
    assert site.post(1, 2500).status == 200
    move_file(site, 1)
    foreign(site, 1)
    assert site.post(1, 10).status == 200
    assert site.level(1) == "gold"
    assert (site.job(1)["db_level"], site.job(1)["target"], site.job(1)["status"]) == ("gold", "bronze", "update")
    assert site.update(1).status == 409
    assert_right(site, hashes)
    site.start_worker()
    site.wait_moved(1, "1.bin", "bronze")


def test_a_foreign_done_ends_what_had_failed(site):
    """conflict: a worker of ours met the half of a copy. dead: it found no source, or the old worker was stopped."""
    hashes = fill(site, 3)
    site.both()
    for cid, failed in ((1, "conflict"), (2, "dead")):
        half = site.paths["gold"] / f"{cid}.bin"
        if failed == "conflict":
            half.write_bytes(b"half")
        else:
            data = (site.paths["bronze"] / f"{cid}.bin").read_bytes()
            (site.paths["bronze"] / f"{cid}.bin").unlink()
        assert site.post(cid, 2500).status == 200
        wait_until(lambda: site.job(cid)["status"] == failed, what=failed)
        assert site.redis.cli("ZCARD", f"tierd:{failed}") == "1"
        if failed == "conflict":
            move_file(site, cid)
        else:
            half.write_bytes(data)
        foreign(site, cid)
        assert site.update(cid).status == 200 and site.level(cid) == "gold"
        assert site.redis.cli("ZCARD", f"tierd:{failed}") == "0" and site.job(cid)["status"] == "done"
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="the old places were looked at")
    assert_right(site, hashes)


# ---- old and new workers ----

def test_a_source_that_another_program_has_just_moved(site):
    """Ours comes between the move and its done: it waits, says why, and then the commit is found made."""
    hashes = fill(site, 2)
    site.start_api()
    move_file(site, 1)
    assert site.post(1, 2500).status == 200
    worker = site.start_worker()
    worker.wait_line("the source is missing and a file stands in gold: another program may have moved it")
    assert site.job(1)["status"] == "update"
    foreign(site, 1)
    assert site.update(1).status == 200
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="it is finished")
    assert site.level(1) == "gold" and site.job(1)["status"] == "done" and not worker.count("level=error")
    assert_right(site, hashes)


def test_a_source_that_was_moved_and_never_reported(site):
    """Whoever moved it died before it could say so: the row is corrected after a while, where that cannot be wrong."""
    hashes = fill(site, 5)
    bronze, silver, gold = (site.paths[n] for n in ("bronze", "silver", "gold"))
    site.start_api()
    for cid in hashes:
        move_file(site, cid)
        assert site.post(cid, 1500 if cid == 2 else 2500).status == 200
    (bronze / "other").mkdir()  # so that it is not taken for a missing mount
    (silver / "3.bin").write_bytes((gold / "3.bin").read_bytes())  # killed before it removed its source
    (silver / "4.bin").write_bytes(b"half")                        # and in the middle of a copy
    with open(gold / "5.bin", "rb+"):                              # another one is at it yet
        worker = site.start_worker()
        site.wait_moved(1, "1.bin", "gold")
        site.wait_moved(2, "2.bin", "silver")                      # where it is wanted by now
        site.wait_moved(3, "3.bin", "gold")
        wait_until(lambda: site.job(4)["status"] == "dead", 60, "4 is dead")
        wait_until(lambda: "somebody is at it" in (site.redis.cli("HGET", "tierd:job:5", "error") or ""), 60, "5 waits")
        assert site.level(5) == "bronze"
    site.wait_moved(5, "5.bin", "gold", 90)
    worker.wait_line("another program moved the file to gold and did not say so: the row is corrected")
    assert "a file stands in gold" in site.job(4)["error"] and site.level(4) == "bronze"
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="nothing is under way")
    status, out, _ = check(site, "--repair")
    assert status == 1 and "elsewhere    4" in out and "they hold different files" in out and site.level(4) == "bronze"
    (silver / "4.bin").unlink()  # a person has looked
    status, out, _ = check(site, "--repair")
    assert status == 0 and "the row is corrected" in out and site.level(4) == "gold"
    wait_until(lambda: site.job(4)["status"] == "done", what="what it was dead for is mended")
    assert site.redis.cli("ZCARD", "tierd:dead") == "0" and not list(bronze.glob("*.bin"))
    assert_right(site, hashes)


def test_what_was_moved_on_from_where_its_done_says(site):
    """Of two old workers that undid each other's move one wrote its done last: the file stands at neither end of that."""
    hashes = fill(site, 2)
    site.start_api()
    assert site.post(1, 2500).status == 200
    move_file(site, 1, target="silver")
    foreign(site, 1, target="gold")
    site.start_worker()
    site.wait_moved(1, "1.bin", "gold", 60)
    assert_right(site, hashes)


@pytest.mark.parametrize("touched", [False, True])
def test_an_older_file_elsewhere_is_no_move(site, touched):
    """The mount of the source is gone, nobody marked it, and a copy of long ago stands at the target, whose mode may have been
    changed since: readers are not sent there."""
    fill(site, 1)
    old = site.paths["gold"] / "1.bin"
    old.write_bytes(b"long ago")
    wait_until(lambda: time.time() - old.stat().st_ctime > 5, what="a file that is older than the row")
    site.db.sql("UPDATE contents SET update_time = NOW(6)")
    (site.paths["bronze"] / "1.bin").rename(site.folder / "unmounted")
    if touched:
        old.chmod(0o600)
    site.both()
    assert site.post(1, 2500).status == 200
    wait_until(lambda: site.job(1)["status"] in ("dead", "done"), 60, "the end of the job")
    assert ("a file stands in gold: is its own level, which is empty, mounted?" if touched else
            "an older file stands in gold: is its own level mounted?") in site.job(1)["error"]
    assert site.level(1) == "bronze" and old.read_bytes() == b"long ago"


@pytest.mark.parametrize("posted", [False, True])
def test_a_done_that_nobody_reports(site, posted):
    """The old worker died between its done and /update_sentence: a worker of ours has it committed."""
    hashes = fill(site, 1)
    site.start_api()
    assert site.post(1, 2500).status == 200
    worker = site.start_worker() if posted else None
    if posted:
        site.wait_moved(1, "1.bin", "gold")
        wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="it is finished")
        worker.stop()
        assert site.post(1, 10).status == 200
        move_file(site, 1, "gold", "bronze")
        foreign(site, 1, "gold", "bronze")
        worker = site.start_worker()
        site.wait_moved(1, "1.bin", "bronze")
    else:
        move_file(site, 1)
        job = foreign(site, 1)
        site.start_worker()
        site.wait_moved(1, "1.bin", "gold")
        assert site.job(1) == job
    assert_right(site, hashes)


@pytest.mark.parametrize("ends", ["whole", "killed"])
def test_an_old_worker_copies_into_ours(two_fs, ends):
    """It opened its source before ours had moved that, and now overwrites what ours made."""
    site = two_fs
    hashes = fill(site, 1)
    site.start_api()
    worker = site.start_worker("--retire-delay=1s")
    with open(site.paths["bronze"] / "1.bin", "rb") as source:
        assert site.post(1, 2500).status == 200
        wait_until(lambda: site.level(1) == "gold", what="the commit")
        with open(site.paths["gold"] / "1.bin", "wb") as target:
            target.write(source.read(1000))
            target.flush()
            worker.wait_line("in bronze is left: the file is locked or open for writing")
            if ends == "whole":
                target.write(source.read())
    if ends == "whole":
        site.wait_moved(1, "1.bin", "gold")
        assert_right(site, hashes)
    else:
        worker.wait_line("in bronze is left: it is not the same as what its row names")
        assert sha(site.paths["bronze"] / "1.bin") == hashes[1]
        assert "different" in check(site)[1]


# ---- check ----

def test_check_names_what_old_workers_left(site):
    """No worker of ours lives, so each content that was posted waits: that is no reason to call it in order."""
    hashes = fill(site, 5)
    site.start_api()
    for cid in hashes:
        assert site.post(cid, 2500).status == 200
    move_file(site, 1)                                # and died
    move_file(site, 2)
    foreign(site, 2)                                  # and died
    foreign(site, 3)                                  # and did not
    (site.paths["bronze"] / "4.bin").unlink()
    status, out, _ = check(site)
    assert status == 1
    found = sorted(tuple(line.split()[:2]) for line in out.splitlines()[:-1])
    assert found == [("elsewhere", "1"), ("elsewhere", "2"), ("missing", "4"), ("uncommitted", "2"), ("uncommitted", "3")]
    assert "its job says that another program moved it from bronze to gold, and its row does not" in out
    assert set(rows(site).values()) == {"bronze"}
    status, out, _ = check(site, "--repair")
    assert status == 1 and "3 mended" in out and "4 findings" in out, out
    assert rows(site) == {1: "gold", 2: "gold", 3: "bronze", 4: "bronze", 5: "bronze"}
    site.start_worker()
    for cid in (1, 2, 3, 5):
        site.wait_moved(cid, f"{cid}.bin", "gold")
    wait_until(lambda: site.job(4)["status"] == "dead", what="the missing one is dead")
    wait_until(lambda: site.redis.cli("ZCARD", "tierd:due") == "0", what="nothing is under way")
    status, out, _ = check(site)
    assert [tuple(line.split()[:2]) for line in out.splitlines()[:-1]] == [("missing", "4")]


class Load:
    """Posts of random counts, until it is stopped."""

    def __init__(self, site, cids):
        self.stopping = threading.Event()
        self.posts, self.bad = 0, []
        self.thread = threading.Thread(target=self._run, args=(site, list(cids)))
        self.thread.start()

    def _run(self, site, cids):
        dice = random.Random(7)
        while not self.stopping.is_set():
            answer = site.post(dice.choice(cids), dice.choice([10, 1500, 2500]))
            self.posts += 1
            if answer.status != 200:
                self.bad.append(answer.body)

    def stop(self):
        self.stopping.set()
        self.thread.join()


def settle(site, hashes, timeout=90):
    """Every content is wanted at gold, and comes there; then nothing is under way."""
    def there():
        late = [cid for cid, level in rows(site).items() if level != "gold"]
        for cid in late[:20]:
            job = site.job(cid) or {}
            if job.get("status") != "update":
                site.post(cid, 2500)
        return not late
    for cid in hashes:
        assert site.post(cid, 2500).status == 200
    wait_until(there, timeout, "every row says gold")
    wait_until(lambda: site.redis.cli("ZCARD", "tierd:due") == "0" and site.redis.cli("KEYS", "tierd:job:*") == "", timeout,
               "nothing is under way")


def assert_settled(site, hashes, exact):
    """Old workers that claim nothing can report a move that another has undone meanwhile: such a row is named, and mended."""
    status, out, _ = check(site, "--repair")
    assert status == 0 and (exact is False or " 0 findings" in out), out
    wait_until(lambda: site.redis.cli("ZCARD", "tierd:due") == "0" and site.redis.cli("KEYS", "tierd:job:*") == "",
               what="what was handed over is looked at")
    assert_right(site, hashes)
    assert site.leftovers() == []
    status, out, _ = check(site)
    assert status == 0 and " 0 findings" in out, out
    assert_right(site, hashes)


def mark(site):
    """As the manual says before old and new workers work together: then an empty level is not taken for a missing mount."""
    subprocess.run([servers.TIERD, "init-level", *site.paths, *[f"--root={r}" for r in site.roots], *site.common()], check=True,
                   capture_output=True)


@pytest.mark.parametrize("mode", ["plain", "lock"])
def test_side_by_side(two_fs, mode):
    site = two_fs
    hashes = fill(site, 60)
    mark(site)
    site.both()
    with old_workers(site, mode, 2) as workers:
        load = Load(site, hashes)
        try:
            wait_until(lambda: load.posts > 1500 and sum(a[1] == "200" for w in workers for a in w.answers) > 10, 120,
                       "both work under the load")
        finally:
            load.stop()
        settle(site, hashes)
    assert load.bad == []
    assert_settled(site, hashes, exact=mode == "lock")


@pytest.mark.parametrize("mode", ["plain", "lock"])
def test_changing_over(two_fs, mode):
    """Old workers, then both, then ours alone, under a load of posts: as the manual says it."""
    site = two_fs
    hashes = fill(site, 60)
    mark(site)
    site.start_api()
    load = None
    try:
        with old_workers(site, mode, 2) as workers:
            load = Load(site, hashes)
            wait_until(lambda: sum(a[1] == "200" for w in workers for a in w.answers) > 50, 60, "the old ones work")
            site.start_worker()
            posts = load.posts
            wait_until(lambda: load.posts > posts + 300, 60, "both work")
            workers[0].stop()
        posts = load.posts
        wait_until(lambda: load.posts > posts + 300, 60, "the new ones work")
    finally:
        if load:
            load.stop()
    settle(site, hashes)
    assert load.bad == []
    assert_settled(site, hashes, exact=mode == "lock")


# ---- a database that lags ----

class Replica:
    """What the worker reads: the rows as they were when they were last copied from where the API writes."""

    def __init__(self, site):
        self.site = site
        site.db.sql("DROP DATABASE IF EXISTS lagging; CREATE DATABASE lagging CHARACTER SET utf8mb4;"
                    "CREATE TABLE lagging.contents LIKE tierd.contents; CREATE VIEW lagging.level AS SELECT * FROM tierd.level")
        self.catch_up()

    def catch_up(self):
        self.site.db.sql("BEGIN; DELETE FROM lagging.contents; INSERT INTO lagging.contents SELECT * FROM tierd.contents; COMMIT")

    def start_worker(self):
        return self.site.start_worker(f"--db={re.sub(r'/tierd(?=[?]|$)', '/lagging', self.site.db.url)}", workers=1)

    def drop(self):
        self.site.db.sql("DROP DATABASE lagging")


@pytest.mark.parametrize("restarts", [False, True])
def test_a_database_that_lags(two_fs, restarts):
    site = two_fs
    hashes = fill(site, 1)
    site.start_api()
    replica = Replica(site)
    try:
        worker = replica.start_worker()
        assert site.post(1, 2500).status == 200
        worker.wait_line("1.bin in bronze is left: the database does not say so yet")
        assert site.level(1) == "gold" and sorted(site.places("1.bin")) == ["bronze", "gold"]
        if restarts:
            worker.stop()
            worker = replica.start_worker()
        worker.wait_line("1.bin is put off.*the database does not say so yet")
        assert site.redis.cli("HGET", "tierd:job:1", "error") == "the database does not say so yet"
        assert site.redis.cli("HEXISTS", "tierd:job:1", "spare:bronze") == "1"
        replica.catch_up()
        site.wait_moved(1, "1.bin", "gold")
        wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="it is finished")
        assert_right(site, hashes)
        assert site.leftovers() == []
        worker.stop()
    finally:
        replica.drop()
