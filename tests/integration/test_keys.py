"""Somebody else's value where tierd keeps a key of its own: named once, in the log, in /health and in the status; nothing
dies half way for it, and when it is mended everything goes on by itself."""
import json
import re
import socket
import time

import pytest
from conftest import free_port, wait_until
from harness.servers import ROOT, Redis, frozen
from test_ops import answer, tierd

GOLDEN = '{"status": "ok", "redis": "ok", "db": "ok"}'
NAMED = "redis is not as tierd needs it"
MENDED = "this is mended in redis"
# What only people watch, or can be done without, and what it should be.
WATCHED = {"tierd:rates": "hash", "tierd:stats": "hash", "tierd:events": "stream", "tierd:errors": "stream",
           "tierd:progress": "hash", "tierd:use": "hash", "tierd:workers": "hash", "tierd:dead": "sorted set",
           "tierd:conflict": "sorted set", "tierd:wake": "list", "tierd:foreign": "hash",
           "tierd:full": "hash", "tierd:short": "hash", "tierd:short:gold": "sorted set",
           "tierd:active:gold": "sorted set", "tierd:parked:gold": "sorted set"}
STOPPING = {"tierd:due": "sorted set", "tierd:paused": "hash", "tierd:routes": "set", "tierd:token": "number",
            "tierd:levels": "hash"}


def sentence(key, is_, want):
    return f"the key {key} in redis holds a {is_} where tierd keeps a {want}: rename or delete it"


def health(site):
    got = site.request("GET", "/health")
    return got.status, got.body


def amiss(site):
    return json.loads(site.request("GET", "/status").body)["amiss"]


def named(process, key):
    return process.count(rf'{NAMED}.*the key {re.escape(key)} in redis')


@pytest.mark.parametrize("key", WATCHED)
def test_what_is_only_watched_is_in_nobodys_way(site, key):
    site.sample()
    site.redis.cli("SET", "tierd:use", "x") if key == "tierd:use" else site.redis.cli("HSET", "tierd:use", "gold", "1 1")
    site.redis.cli("SET", key, "theirs")
    worker = site.both()
    worker_args = {"tierd:active:gold": ["--level-jobs=1"]}.get(key, [])
    if worker_args:
        site.start_worker(*worker_args)
    for cid, name in ((4, "d.mp4"), (7, "g.mp4")):
        assert site.post(cid, 5000).status == 200
        site.wait_moved(cid, name, "gold")
    wait_until(lambda: amiss(site) == [sentence(key, "string", WATCHED[key])], what="the status names it")
    assert health(site) == (200, GOLDEN)
    assert sentence(key, "string", WATCHED[key]) in tierd(site, "status").stdout
    wait_until(lambda: site.redis.cli("EXISTS", "tierd:job:4", "tierd:job:7") == "0", what="both are finished")
    assert site.redis.cli("GET", key) == "theirs"
    assert named(site.api, key) == 1 and named(worker, key) == 0
    assert worker.count("level=error|refuses") == 0, worker.lines
    site.redis.cli("DEL", key)
    site.api.wait_line(f"{MENDED}.*{key} ")
    assert amiss(site) == [] and site.api.count(MENDED) == 1


@pytest.mark.parametrize("key", STOPPING)
def test_what_moves_need_is_named_and_stops_them(site, key):
    site.sample()
    site.start_api()
    site.redis.cli("RENAME", key, "kept")
    site.redis.cli("SET", key, "theirs")
    worker = site.start_worker(workers=1)
    want = sentence(key, "text" if key == "tierd:token" else "string", STOPPING[key])
    wait_until(lambda: health(site) == (503, json.dumps({"status": "down", "redis": want, "db": "ok"})), what="health names it")
    got = site.post(7, 5000)
    if key == "tierd:due":
        assert (got.status, json.loads(got.body)) == (503, {"error": f"redis refuses the request: {want}"})
    else:
        assert got.status == 200
    worker.wait_line(f"{NAMED}.*{key} ")
    assert want in amiss(site)
    said = len(site.api.lines) + len(worker.lines)
    time.sleep(1.5)  # nothing comes: the worker asks twice a second
    assert len(site.api.lines) + len(worker.lines) - said <= 3
    assert site.places("g.mp4") == ["bronze"] and site.redis.cli("GET", key) == "theirs"
    if got.status == 200:
        assert want in answer(site, "explain", "7")["now"]
    site.redis.cli("DEL", key)
    site.redis.cli("RENAME", "kept", key)
    wait_until(lambda: health(site) == (200, GOLDEN), what="health is well")
    if got.status == 503:
        assert site.post(7, 5000).status == 200
    site.wait_moved(7, "g.mp4", "gold")
    assert named(site.api, key) == 1 and named(worker, key) <= 1 and site.api.count(MENDED) == 1


@pytest.mark.parametrize("key", ["tierd:due", "tierd:paused", "tierd:token"])
def test_a_move_that_ends_meanwhile_is_told_when_it_is_mended(two_fs, key):
    """Its end is refused, and owed: no lock without a place in the queue, no job that nobody looks at."""
    site = two_fs
    site.sample()
    site.both(workers=1, lease="20s")
    site.redis.cli("CLIENT", "PAUSE", "1", "WRITE")
    for cid in range(100, 140):
        site.add(cid, f"{cid}.bin", "bronze", bytes(cid) * 5000)
        site.post(cid, 5000)
    wait_until(lambda: site.level(100) == "gold", what="the first has moved")
    site.redis.cli("RENAME", key, "kept")
    site.redis.cli("SET", key, "theirs")
    wait_until(lambda: health(site)[0] == 503, what="health names it")
    left = [cid for cid in range(100, 140) if site.redis.cli("EXISTS", f"tierd:job:{cid}") == "1"]
    site.redis.cli("DEL", key)
    site.redis.cli("RENAME", "kept", key)
    for cid in range(100, 140):
        site.wait_moved(cid, f"{cid}.bin", "gold")
    wait_until(lambda: site.redis.cli("ZCARD", "tierd:due") == "0", timeout=10, what=f"all are finished ({left} were not)")
    assert site.redis.cli("EXISTS", *[f"tierd:job:{c}" for c in range(100, 140)], *[f"lock:{c}" for c in range(100, 140)]) == "0"


@pytest.mark.parametrize("words", [("SET", "tierd:token", "abc"), ("SET", "tierd:token", "1e5")], ids=lambda w: w[2])
def test_a_token_that_is_no_number(site, words):
    site.sample()
    site.redis.cli(*words)
    site.both()
    wait_until(lambda: health(site)[0] == 503, what="health names it")
    assert sentence("tierd:token", "text", "number") in health(site)[1]
    site.post(7, 5000)
    site.redis.cli("DEL", "tierd:token")
    site.wait_moved(7, "g.mp4", "gold")


@pytest.mark.parametrize("words", [
    ("SET", "tierd:clock", "x"), ("SET", "tierd:clock", "99999999999999999"), ("LPUSH", "tierd:clock", "x"),
    ("HSET", "tierd:paused", "silver", "soon"), ("HSET", "tierd:paused", "silver", "nan"), ("ZADD", "tierd:due", "inf", "99"),
    ("ZADD", "tierd:due", "-inf", "words"), ("ZADD", "tierd:due", "1", "01"), ("ZADD", "tierd:dead", "inf", "x"),
    ("LPUSH", "tierd:scan", "x"), ("HSET", "tierd:rates", "5", "x"), ("HSET", "tierd:stats", "moves", "x"),
    ("HSET", "tierd:progress", "5", "x"), ("HSET", "tierd:workers", "x", "y"), ("HSET", "tierd:use", "gold", "y"),
], ids=" ".join)
def test_numbers_out_of_shape_are_in_nobodys_way(site, words):
    site.sample()
    site.redis.cli(*words)
    site.redis.cli("SET", "words", "w")
    site.redis.cli("SET", "01", "w")
    site.both()
    site.post(7, 5000)
    site.wait_moved(7, "g.mp4", "gold")
    assert health(site) == (200, GOLDEN) and answer(site, "status")["redis"] == "ok"
    if words[1] == "tierd:scan":  # another program's job is found all the same
        site.redis.cli("SET", "4", '{"cid": "4", "count": "5000", "target": "gold", "db_level": "bronze", '
                                   '"filename": "d.mp4", "worker_id": null, "status": "update"}')
        site.wait_moved(4, "d.mp4", "gold")
    if words[:2] == ("LPUSH", "tierd:clock"):
        assert site.redis.cli("TYPE", "tierd:clock") == "list"
    assert site.redis.cli("EXISTS", "tierd:job:words", "lock:words", "tierd:job:01", "lock:01") == "0"


# ---- keys of one content ----

def test_a_foreign_key_in_the_place_of_a_job(site):
    site.sample()
    worker = site.both()
    site.redis.cli("SET", "tierd:job:7", "theirs")
    want = sentence("tierd:job:7", "string", "hash")
    for _ in range(3):
        got = site.post(7, 5000)
        assert (got.status, json.loads(got.body)) == (409, {"error": want})
    wait_until(lambda: amiss(site) == [want], what="the status names it")
    assert health(site) == (200, GOLDEN) and answer(site, "explain", "7")["now"] == want
    site.post(4, 5000)
    site.wait_moved(4, "d.mp4", "gold")
    site.redis.cli("DEL", "tierd:job:7")
    assert site.post(7, 5000).status == 200
    site.wait_moved(7, "g.mp4", "gold")
    site.api.wait_line(f"{MENDED}.*tierd:job:7 ")
    assert named(site.api, "tierd:job:7") == 1 and worker.count("level=error|refuses") == 0


@pytest.mark.parametrize("key,want", [("lock:7", "string"), ("tierd:job:7", "hash")])
def test_a_job_that_waits_behind_a_foreign_key(site, key, want):
    """And the search for others' jobs goes on past it."""
    site.sample()
    site.redis.cli("LPUSH", key, "theirs")
    site.redis.cli("SET", "7", '{"cid": "7", "count": "5000", "target": "gold", "db_level": "bronze", '
                               '"filename": "g.mp4", "worker_id": null, "status": "update"}')
    worker = site.both(lease="60s")
    want = sentence(key, "list", want)
    wait_until(lambda: amiss(site) == [want], what="the status names it")
    assert answer(site, "explain", "7")["now"] == want and want in tierd(site, "explain", "7").stdout
    assert health(site) == (200, GOLDEN)
    site.redis.cli("SET", "4", '{"cid": "4", "count": "5000", "target": "gold", "db_level": "bronze", '
                               '"filename": "d.mp4", "worker_id": null, "status": "update"}')
    site.wait_moved(4, "d.mp4", "gold")
    assert site.redis.cli("LRANGE", key, "0", "-1") == "theirs" and site.places("g.mp4") == ["bronze"]
    site.redis.cli("DEL", key)
    site.wait_moved(7, "g.mp4", "gold", timeout=10)  # long before the lease of 60 s is over
    assert named(site.api, key) == 1 and worker.count("found a job that another program wrote.*cid=7") == 1
    site.api.wait_line(f"{MENDED}.*{key} ")


def test_a_lock_that_becomes_a_foreign_key_while_it_moves(two_fs):
    site = two_fs
    site.sample()
    site.add(50, "big.bin", "bronze", b"x" * 4 * 2**20)
    site.start_api()
    site.start_worker("--bandwidth=1M", workers=1, lease="3s")
    site.post(50, 5000)
    wait_until(lambda: site.redis.cli("EXISTS", "lock:50") == "1", what="it is claimed")
    site.redis.cli("DEL", "lock:50")
    site.redis.cli("LPUSH", "lock:50", "theirs")
    wait_until(lambda: amiss(site) == [sentence("lock:50", "list", "string")], timeout=30, what="the status names it")
    site.redis.cli("DEL", "lock:50")
    site.wait_moved(50, "big.bin", "gold", timeout=30)
    assert site.leftovers() == []


VALUES = {"long": "x" * 20000, "a NUL": "a\\x00b", "40 MB": None, "a list": None}


def put_value(site, cid, what):
    if what == "40 MB":
        site.redis.cli("SETRANGE", str(cid), str(40 * 10**6), "x")
    elif what == "a NUL":
        site.redis.cli("SETRANGE", str(cid), "3", "x")  # NULs before it
    elif what == "a list":
        site.redis.cli("LPUSH", str(cid), "x")
    else:
        site.redis.cli("SET", str(cid), VALUES[what])


@pytest.mark.parametrize("what", VALUES)
def test_a_value_that_is_no_job(site, what):
    site.sample()
    worker = site.both()
    put_value(site, 7, what)
    size = site.redis.cli("STRLEN", "7")
    want = "the key 7 in redis holds something that is no job: rename or delete it"
    for _ in range(5):
        got = site.post(7, 5000)
        assert (got.status, json.loads(got.body)) == (409, {"error": want})
    got = site.update(7)
    assert (got.status, got.body) == (409, "check your status again")
    e = answer(site, "explain", "7")
    assert e["now"] == want and e["job"] is None
    wait_until(lambda: amiss(site) == [want], what="the status names it")
    for words in (("retry", "7"), ("cancel", "7")):
        assert tierd(site, *words).returncode != 0
    assert site.post(4, 5000).status == 200
    site.wait_moved(4, "d.mp4", "gold")
    assert health(site) == (200, GOLDEN)
    assert site.api.count("redis is away") == 0 and worker.count("redis is away") == 0
    assert site.redis.cli("STRLEN", "7") == size
    site.redis.cli("DEL", "7")
    wait_until(lambda: site.post(7, 5000).status == 200, what="a post is taken")
    site.wait_moved(7, "g.mp4", "gold")


def test_a_large_value_in_the_way_of_a_claimed_job(site):
    """What is carried to workers and back stays small, and what stands there stays."""
    site.sample()
    site.start_api()
    site.post(7, 5000)
    put_value(site, 7, "40 MB")
    worker = site.start_worker()
    site.post(4, 5000)
    site.wait_moved(4, "d.mp4", "gold")
    wait_until(lambda: "in redis holds something that is no job" in answer(site, "explain", "7")["now"], what="explained")
    assert site.redis.cli("STRLEN", "7") == str(40 * 10**6 + 1)
    assert worker.count("redis is away") == 0 and health(site) == (200, GOLDEN)


def test_scripts_are_loaded_once_after_a_flush(site):
    """However many calls wait when it turns out that they are gone."""
    site.sample()
    site.start_api()

    def loads():
        found = re.search(r"cmdstat_script\|load:calls=(\d+)", site.redis.cli("INFO", "commandstats"))
        return int(found.group(1)) if found else 0
    one = loads()
    assert one > 15
    host, port = site.api.address.rsplit(":", 1)
    for _ in range(3):
        before = loads()
        lines = [socket.create_connection((host, int(port)), timeout=10) for _ in range(200)]
        site.redis.cli("SCRIPT", "FLUSH")
        with frozen(*site.api.children()):  # so that they are read in one turn
            for i, line in enumerate(lines):
                line.sendall(b"GET /jobs/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (i % 8 + 1))
        for line in lines:
            assert line.recv(65536).startswith(b"HTTP/1.1 200 ")
            line.close()
        assert loads() - before <= one


# ---- rights, and servers that cannot be used ----

def documented_acl():
    """The rules of the manual, as words of ACL SETUSER."""
    page = (ROOT / "init" / "man" / "tierd.conf.5").read_text()
    return page.split("ACL SETUSER tierd ")[1].split(".Ed")[0].replace("\\e", " ").split()


@pytest.fixture
def limited(own_site):
    """The site as the user `tierd` of Redis sees it, who may do what the manual says and no more."""
    site = own_site
    plain = site.common()
    assert site.redis.cli("ACL", "SETUSER", "tierd", "reset", *documented_acl()) == "OK"
    password = site.folder / "redis.password"
    password.write_text("secret\n")
    url = f"unix://tierd@{site.redis.socket}?db=1"
    site.common = lambda: [f"--redis={url}", f"--redis-password-file={password}", plain[1]]
    return site


def refusals(site):
    return [line for line in site.redis.cli("ACL", "LOG").splitlines() if line]


def test_the_documented_rights_are_enough(limited):
    """Whole moves, with all that an operator does; Redis itself says that nothing was refused."""
    site = limited
    site.sample()
    site.start_api()
    site.start_worker("--level-jobs=1", workers=2, lease="2s")
    for cid in range(100, 120):
        site.add(cid, f"{cid}.bin", "bronze", bytes([cid]) * 5000)
        assert site.post(cid, 5000).status == 200
    for cid in range(100, 120):
        site.wait_moved(cid, f"{cid}.bin", "gold")
    answer(site, "pause", "silver")
    site.post(7, 1500)
    wait_until(lambda: [g["jobs"] for g in answer(site, "status")["paused"]] == [1], what="it is parked")
    assert answer(site, "cancel", "7")["done"] is True
    site.post(7, 1500)
    answer(site, "resume")
    site.wait_moved(7, "g.mp4", "silver")
    (site.paths["gold"] / "d.mp4").write_text("in the way")
    site.post(4, 5000)
    wait_until(lambda: site.job(4)["status"] == "conflict", what="a conflict")
    (site.paths["gold"] / "d.mp4").unlink()
    assert answer(site, "retry", "4")["done"] is True
    site.wait_moved(4, "d.mp4", "gold")
    (site.paths["bronze"] / "b.mp4").unlink()
    site.post(2, 5000)
    site.add(9, "i.mp4", "bronze")
    site.post(9, 5000)
    wait_until(lambda: site.job(9)["status"] == "dead", what="it is dead")
    (site.paths["bronze"] / "i.mp4").write_text("x")
    answer(site, "retry", "--all-dead", status=0)
    site.wait_moved(9, "i.mp4", "gold")
    site.redis.cli("SET", "8", '{"cid": "8", "count": "5000", "target": "gold", "db_level": "bronze", '
                               '"filename": "h.mp4", "worker_id": null, "status": "update"}')
    site.wait_moved(8, "h.mp4", "gold")
    assert answer(site, "explain", "8")["state"] is not None
    (site.paths["silver"] / "h.mp4").write_bytes(b"content 8" * 100)
    tierd(site, "check", "--repair", *[f"--root={r}" for r in site.roots])
    assert tierd(site, "init-level", "gold", *[f"--root={r}" for r in site.roots]).returncode == 0
    site.redis.cli("SCRIPT", "FLUSH")
    assert site.post(1, 1).status == 200
    site.wait_moved(1, "a.mp4", "bronze")
    assert health(site) == (200, GOLDEN) and amiss(site) == []
    for process in site.running[::-1]:
        process.stop()
    assert refusals(site) == []


@pytest.mark.parametrize("right,own", [("XADD", True), ("ZPOPMIN", True), ("SCAN", True), ("BLPOP", True), ("MGET", True),
                                       ("evalsha", False), ("select", False), ("script|load", False)])
def test_a_right_that_is_missing_is_named(limited, right, own):
    """In the server's own words, which name the command or, of a script's, do not."""
    site = limited
    site.sample()
    site.start_api()
    worker = site.start_worker(workers=1)
    assert health(site) == (200, GOLDEN)
    site.redis.cli("ACL", "SETUSER", "tierd", f"-{right}")
    site.redis.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # as if it had been so when they connected
    site.redis.cli("SCRIPT", "FLUSH")

    def told():
        status, body = health(site)
        return status == 503 and re.search(words, body)
    words = rf"redis refuses '{right} .*(can't run this command|NOPERM)" if own else rf"no permissions to run.*'{right}"
    wait_until(told, what="health names it")
    site.api.wait_line(words)
    time.sleep(2.5)  # a second look and many attempts to connect
    assert site.api.count(words) == 1, site.api.lines
    site.redis.cli("ACL", "SETUSER", "tierd", f"+{right}")
    site.redis.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: health(site) == (200, GOLDEN), what="health is well")
    assert site.post(7, 5000).status == 200
    site.wait_moved(7, "g.mp4", "gold")
    assert worker.count("no permissions|can't run this command") <= 2


@pytest.mark.parametrize("db", [0, 1])
def test_a_cluster_is_named(own_site, tmp_path, db):
    """SELECT is refused there, or scripts are: in the server's own words."""
    site = own_site
    cluster = Redis(tmp_path / "cluster", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    cluster.cli = lambda *words, **_: Redis.cli(cluster, *words, db=0)
    site.sample()
    try:
        cluster.start()
        site.common = lambda: [f"--redis=unix://{cluster.socket}?db={db}", f"--db={site.db.url}"]
        site.start_api()
        status, body = health(site)
        assert status == 503 and json.loads(body)["redis"] not in ("ok", "down"), body
        assert re.search("cluster|CLUSTERDOWN|slot", body, re.I), body
        assert site.post(1, 5000).status == 503
        time.sleep(2.5)
        assert site.api.count("cluster|slot") <= 2, site.api.lines
    finally:
        site.close()
        cluster.close()
