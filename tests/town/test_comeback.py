"""Servers that were away, hang, take no writes, or are elsewhere by now; and names of which that is hard to learn. Between
hosts, by name. What `../integration/` shows over 127.0.0.1 (test_comeback, test_hangs, test_writable, test_names) is not shown
again: here hosts lose their power, names lead elsewhere, and workers go on, too.

A second is what tierd promises; `make bench BENCH=comeback` measures it. Here it is whether it comes back at all (SOON_S)."""
import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time

import pytest
from conftest import wait_until
from faults.holding import settled
from harness.servers import TIERD, die_with_parent, stop_process
from harness.town import API_PORT, DB_PORT, REDIS_PORT, Api, TownDB, TownRedis
from town.fixtures import LATE_S, all_settled, contents, in_time, served

SOON_S = 10  # what was not mended took 14 s, or for ever
full_only = pytest.mark.full_only


def healthy(site, timeout=SOON_S):
    wait_until(lambda: site.health()[0] == 200, timeout, "health")


def moves(site, found, *cids):
    """Posted now, each is moved by somebody soon."""
    for cid in cids:
        served(site, cid, 5000, SOON_S)
    all_settled(site, {cid: found[cid] for cid in cids}, timeout=2 * SOON_S)


# ---- away ----

@contextlib.contextmanager
def load(site, clients=8):
    """Posts without a pause, whatever is answered, of a content that there is not."""
    over = threading.Event()

    def post():
        while not over.is_set():
            with contextlib.suppress(OSError):
                site.post(999, 1, timeout=LATE_S)
    threads = [threading.Thread(target=post, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(2 * LATE_S)


def end(town, server, how):
    if how == "off":
        town.crash(server)
    else:
        server.stop(signal.SIGKILL if how == "killed" else signal.SIGTERM)


def begin(town, server):
    town.plug(server.host.name)
    server.start()


@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=full_only)], ids=["quiet", "busy"])
@pytest.mark.parametrize("how", ["ended", "killed", "off"])
@pytest.mark.parametrize("name", ["redis", "db"])
def test_everything_goes_on_after_a_server_was_away(town_site, table, full, name, how, busy):
    """However long, and whether its host says so or not: "off" is no FIN, no RST, and silence."""
    site, town, server = town_site, town_site.town, getattr(town_site.town, name)
    times = (0.3, 2, 8, 16) if full else (0.3,)
    found, took = contents(site, range(1, len(times) + 1)), []
    site.start_api()
    worker = site.start_worker(workers=1)
    healthy(site)
    for cid, seconds in zip(found, times):
        with load(site) if busy else contextlib.nullcontext():
            end(town, server, how)
            assert in_time(site, seconds, **{name: "down"}) == 503
            begin(town, server)
            took.append(served(site, cid, 5000, SOON_S))
        moves(site, found, cid)
    assert worker.count("a child died") == 0 and site.api.count("a child died") == 0
    table.append(f"{name} {how}{', busy' if busy else ''}: served {max(took) * 1000:.0f} ms after it answered, at most")


@pytest.mark.parametrize("how", [pytest.param("ended", marks=full_only), "off", pytest.param("nameless", marks=full_only)])
@pytest.mark.parametrize("names", [("redis", "db"), pytest.param(("redis",), marks=full_only), pytest.param(("db",), marks=full_only)],
                         ids=" and ".join)
def test_started_before_its_servers(town_site, names, how):
    """The API and a worker; the name server is away as well, and comes last."""
    site, town = town_site, town_site.town
    servers = [getattr(town, name) for name in names]
    found = contents(site, [1])
    for server in servers:
        end(town, server, how)
    if how == "nameless":
        town.unplug("dns")
    site.start_api()
    worker = site.start_worker(workers=1)
    says = {"redis": "cannot be looked up", "db": "cannot be looked up"} if how == "nameless" else dict.fromkeys(names, "down")
    assert in_time(site, seconds=1, **says) == 503
    for server in servers:
        begin(town, server)
    if how == "nameless":
        town.plug("dns")
    healthy(site)
    moves(site, found, 1)
    assert worker.count("a child died") == 0


# ---- what hangs ----

@contextlib.contextmanager
def stopped(server):
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def mute(site, name):
    """Its name leads to a host that accepts every connection and says nothing, and the old host has no power any more."""
    town = site.town
    server = getattr(town, name)
    with town.hosts["desk"].socket() as listener:
        listener.bind((town.hosts["desk"].address, server.port))
        listener.listen(64)
        town.name(name, town.hosts["desk"].address)
        town.crash(server)
        try:
            yield
        finally:
            begin(town, server)
            town.name(name, server.host.address)


@contextlib.contextmanager
def half_open(cables, *names):
    for name in names:
        cables[name].hold()
    try:
        yield
    finally:
        for name in names:
            cables[name].go()


@contextlib.contextmanager
def nameless(town, *names):
    """No name server answers, and the connections to these servers are broken."""
    town.dns.silent = True
    with contextlib.ExitStack() as stack:
        for name in names:
            end(town, getattr(town, name), "off")
            stack.callback(begin, town, getattr(town, name))
        try:
            yield
        finally:
            town.dns.silent = False


DOWN = {"redis": {"redis": "down"}, "db": {"db": "down"}, "both": {"redis": "down", "db": "down"}, "none": {}}
HANGS = {  # what hangs, and what /health is to say
    "redis is stopped": ("redis", lambda site, _: stopped(site.town.redis)),
    "the database is stopped": ("db", lambda site, _: stopped(site.town.db)),
    "the cable to redis is cut": ("redis", lambda site, _: site.town.cut("api", "redis")),
    "the cable to the database is cut": ("db", lambda site, _: site.town.cut("api", "db")),
    "answers of redis are lost": ("redis", lambda site, _: site.town.cut_one_way("redis", "api")),
    "answers of the database are lost": ("db", lambda site, _: site.town.cut_one_way("db", "api")),
    "the host has no cable": ("both", lambda site, _: site.town.unplugged("api")),
    "connections are half open": ("both", lambda _, cables: half_open(cables, "redis", "db")),
    "redis accepts and says nothing": ("redis", lambda site, _: mute(site, "redis")),
    "the database accepts and says nothing": ("db", lambda site, _: mute(site, "db")),
    "the name server": ("none", lambda site, _: nameless(site.town)),
    "the name server, and redis is away": ("redis", lambda site, _: nameless(site.town, "redis")),
    "the name server, and the database is away": ("db", lambda site, _: nameless(site.town, "db")),
    "the name server, and all is away": ("both", lambda site, _: nameless(site.town, "redis", "db")),
}
HANGS_IN_PART = ("redis is stopped", "the database accepts and says nothing", "the name server, and all is away")


@pytest.mark.parametrize("what", [pytest.param(w, marks=() if w in HANGS_IN_PART else full_only) for w in HANGS])
def test_health_waits_for_nothing(town_site, full, what):
    """Whatever hangs; and all goes on when it does not any more."""
    site, town = town_site, town_site.town
    says, hang = HANGS[what]
    found = contents(site, [1])
    cables = {name: town.proxy("api", getattr(town, name)) for name in ("redis", "db")} if what.endswith("open") else {}
    site.start_api()
    worker = site.start_worker(workers=1)
    healthy(site)
    with hang(site, cables):
        assert in_time(site, 3 if full else 1, **DOWN[says]) == (200 if says == "none" else 503)
    healthy(site)
    moves(site, found, 1)
    assert worker.count("a child died") == 0 and site.api.count("a child died") == 0


@contextlib.contextmanager
def unread_api(site):
    """An API whose log nobody reads; yields the other end of it, which is full."""
    ours, theirs = os.pipe()
    process = subprocess.Popen([TIERD, "--role=api", f"--listen=0.0.0.0:{API_PORT}", *site.town.common()], stderr=theirs,
                               preexec_fn=die_with_parent(enter=site.town.api.host.enter), start_new_session=True)
    try:
        said = b""
        while b"ready role=api" not in said:
            assert (more := os.read(ours, 65536)), said
            said += more
        filler = os.open(f"/proc/self/fd/{theirs}", os.O_WRONLY | os.O_NONBLOCK)
        os.close(theirs)
        for size in (4096, 1):  # until it takes no byte more, however small the write
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(filler, b"x" * size)
        os.close(filler)
        yield ours
        assert process.poll() is None
    finally:
        stop_process(process)
        os.close(ours)


def test_health_waits_for_no_reader_of_the_log(town_site):
    """While there is much to say: everything is away, and no name can be looked up."""
    site, town = town_site, town_site.town
    contents(site, [1])
    with unread_api(site) as log:
        with nameless(town, "redis", "db"):
            assert in_time(site, seconds=1, redis="down", db="down") == 503
        healthy(site)
        served(site, timeout=SOON_S)
        assert select.select([log], [], [], 0)[0]  # nobody has read it


# ---- takes no writes ----

def gauge(site, name):
    return next(line.split()[1] for line in site.town.api.get("/metrics").body.splitlines() if line.startswith(name + " "))


def names_it(site, name, words):
    """/health says so of this server and "ok" of the other, and so do /metrics and `tierd status`."""
    assert in_time(site, seconds=0.5, **{name: f"takes no writes: {words}"}) == 503
    for other in ("redis", "db"):
        wait_until(lambda other=other: gauge(site, f"tierd_{other}_writable") == ("0" if other == name else "1"),
                   what=f"the metric of {other}")
    said = site.town.storage[0].run("status").stdout.splitlines()[0]
    assert f"{'redis' if name == 'redis' else 'database'} takes no writes ({words}" in said and " ok " in said


def led_to(site, name, server):
    """From now on the name leads there. Seconds until the API is well."""
    site.town.name(name, server.host.address)
    setattr(site, name, server)
    began = time.monotonic()
    healthy(site)
    return time.monotonic() - began


def follow(site, name, server, found, patient):
    """The name leads to `server`, and so do the API and, who is `patient` sees, all processes of the worker, of which one
    looks at levels each few seconds; it was said once."""
    old = getattr(site, name)
    took = led_to(site, name, server)
    moves(site, found, 1)
    wait_until(lambda: gauge(site, f"tierd_{name}_writable") == "1", what="the metric")
    if patient:
        wait_until(lambda: guests(old, site) == 0, 2 * SOON_S, "nobody of us asks the old one any more")
    assert site.api.count("takes no writes") == 1
    return took


def guests(server, site):
    """How many connections of ours a server has."""
    hosts = [site.town.hosts[h].address for h in ("api", "storage1", "storage2")]
    if isinstance(server, TownRedis):
        return sum(f"addr={h}:" in line for line in server.cli("CLIENT", "LIST").splitlines() for h in hosts)
    return int(server.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'tierd'")[0][0])


@contextlib.contextmanager
def redis_settings(redis, **settings):
    for name, value in settings.items():
        assert redis.cli("CONFIG", "SET", name, value) == "OK"
    try:
        yield
    finally:
        for name in settings:
            redis.cli("CONFIG", "SET", name, {"save": "", "maxmemory": "0"}[name])


@contextlib.contextmanager
def replica(redis, other):
    redis.cli("REPLICAOF", other.host.address, str(REDIS_PORT))
    try:
        yield "it is a replica"
    finally:
        redis.cli("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def full_up(redis, _):
    with redis_settings(redis, maxmemory="1"):
        yield "OOM command not allowed"


@contextlib.contextmanager
def unsaved(redis, _):
    """It is to save itself, and cannot."""
    in_the_way = redis.data / "dump.rdb"
    in_the_way.unlink(missing_ok=True)  # of a former replica's making; the append-only file has all
    in_the_way.mkdir()
    try:
        with redis_settings(redis, save="3600 1000000"):
            redis.cli("BGSAVE")
            wait_until(lambda: "rdb_last_bgsave_status:err" in redis.cli("INFO", "persistence"), what="it could not")
            yield "MISCONF"
    finally:
        in_the_way.rmdir()


def in_step(redis, other):
    """`other` has what `redis` has, and would take its place."""
    other.cli("REPLICAOF", redis.host.address, str(REDIS_PORT))
    wait_until(lambda: "master_link_status:up" in other.cli("INFO", "replication"), what="in step")
    other.cli("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("how", [replica, pytest.param(full_up, marks=full_only), pytest.param(unsaved, marks=full_only)],
                         ids=["is a replica", "is full", "cannot save"])
def test_the_name_of_redis_leads_to_one_that_takes_writes(town_site, table, full, how):
    """The old one goes on answering, and nobody ends its connections."""
    site, town = town_site, town_site.town
    found = contents(site, [1])
    with town.another(TownRedis, "redis2") as new:
        site.start_api()
        site.start_worker(workers=1)
        healthy(site)
        in_step(town.redis, new)
        with how(town.redis, new) as words:
            names_it(site, "redis", words)
            refused = site.post(1, 5000)
            assert refused.status == 503 and f"takes no writes: {words}" in json.loads(refused.body)["error"]
            took = follow(site, "redis", new, found, full)
        table.append(f"redis, {words}: well {took * 1000:.0f} ms after its name led elsewhere")


def copy_of(db, other):
    """`other` has the tables of `db` as they are now, and lets the same user in."""
    dump = subprocess.run(["mariadb-dump", "--no-defaults", f"--socket={db.socket}", "--user=root", "tierd"],
                          capture_output=True, text=True, check=True)
    other.sql(dump.stdout)


@contextlib.contextmanager
def read_only(town):
    town.db.sql("SET GLOBAL read_only = 1")
    try:
        yield "The MariaDB server is running with the --read-only option"
    finally:
        town.db.sql("SET GLOBAL read_only = 0")


@contextlib.contextmanager
def started_read_only(town):
    """Nothing can be written there, by nobody: InnoDB was told so at its start."""
    args = town.db.args
    town.db.stop()
    town.db.args = (*args, "--innodb-read-only=1")
    town.db.start()
    try:
        yield "Table 'contents' is read only"
    finally:
        town.db.stop()
        town.db.args = args
        town.db.start()


@pytest.mark.parametrize("how", [read_only, pytest.param(started_read_only, marks=full_only)], ids=["read_only", "innodb_read_only"])
def test_the_name_of_the_database_leads_to_one_that_takes_writes(town_site, table, full, how):
    site, town = town_site, town_site.town
    found = contents(site, [1])
    with town.another(TownDB, "db2") as new:
        copy_of(town.db, new)
        site.start_api()
        site.start_worker(workers=1)
        healthy(site)
        with how(town) as words:
            names_it(site, "db", words)
            took = follow(site, "db", new, found, full)
            assert town.db.sql("SELECT content_level FROM contents WHERE cid = 1") == [["bronze"]]
        table.append(f"database, {words}: well {took * 1000:.0f} ms after its name led elsewhere")


def test_the_first_address_of_redis_is_a_replica(town_site):
    """A name for all of them, as some clusters give it: the one that takes writes is found, by workers and commands, too."""
    site, town = town_site, town_site.town
    found = contents(site, [1])
    with town.another(TownRedis, "redis2") as second, replica(second, town.redis):
        town.name("redis", second.host.address, town.redis.host.address)
        site.start_api()
        worker = site.start_worker(workers=1)
        healthy(site)
        moves(site, found, 1)
        assert guests(second, site) == 0
        assert site.api.count("takes no writes") == 0 and worker.count("takes no writes") == 0


def test_the_first_address_of_the_database_is_read_only(town_site):
    site, town = town_site, town_site.town
    found = contents(site, [1])
    with town.another(TownDB, "db2") as second:
        copy_of(town.db, second)
        second.sql("SET GLOBAL read_only = 1")
        town.name("db", second.host.address, town.db.host.address)
        site.start_api()
        site.start_worker(workers=1)
        healthy(site)
        moves(site, found, 1)
        assert site.api.count("takes no writes") == 0


@full_only
@pytest.mark.parametrize("name", ["redis", "db"])
def test_another_takes_the_place_of_a_server_whose_host_is_off(town_site, table, name):
    """Nobody ends the old connections, and the name leads to another server."""
    site, town = town_site, town_site.town
    found = contents(site, [1])
    kind, host, copy = {"redis": (TownRedis, "redis2", in_step), "db": (TownDB, "db2", copy_of)}[name]
    with town.another(kind, host) as new:
        site.start_api()
        site.start_worker(workers=1)
        healthy(site)
        copy(getattr(town, name), new)
        town.crash(getattr(town, name))
        took = led_to(site, name, new)
        moves(site, found, 1)
        table.append(f"{name}, another in its place: well {took * 1000:.0f} ms after its name led elsewhere")


# ---- names ----

@pytest.fixture
def place(town_site):
    """Where `redis`, `db` or `api` is started anew, with what it has: `place("redis")` where it stood, or on another host, to
    which its name leads then."""
    town, elsewhere = town_site.town, {"redis": "redis2", "db": "db2", "api": "desk"}

    def anew(name, moves_away):
        if name == "api":
            town_site.api.stop()
            if moves_away:
                town.api = Api(town, town.hosts[elsewhere[name]])
                town.name("api", town.api.host.address)
            town_site.start_api()
            return
        server = getattr(town, name)
        server.stop()
        if moves_away:
            town.move(server, elsewhere[name])
        server.start()
    home = town.api
    yield anew
    town.api = home


def resolvers(town, *lines):
    """What /etc/resolv.conf says, on all hosts where tierd is started."""
    for name in ("api", "storage1", "desk"):
        town.hosts[name].resolver(*lines)


def first_is_silent(town):
    resolvers(town, "nameserver 10.9.0.99", f"nameserver {town.hosts['dns'].address}", "search town")


def slow(town):
    town.dns.lag_s = 0.5


def truncated(town):
    town.dns.truncate = True


def domain_fails(town):
    town.dns.refuse("corp.example")
    resolvers(town, f"nameserver {town.hosts['dns'].address}", "search corp.example town")


TROUBLES = {"the first name server is silent": first_is_silent, "the name server is slow": slow, "answers are cut": truncated,
            "the first search domain fails": domain_fails}
NAMES_IN_PART = (("redis", "the first name server is silent"), ("api", "the first name server is silent"),
                 ("api", "answers are cut"), ("api", "the first search domain fails"))


@pytest.mark.parametrize("name, trouble", [pytest.param(n, t, marks=() if (n, t) in NAMES_IN_PART else full_only)
                                           for t in TROUBLES for n in ("redis", "db", "api")])
def test_a_server_moves_though_names_are_hard_to_learn(town_site, place, name, trouble):
    """The API and a worker are started so, and follow each server to another host."""
    site, town = town_site, town_site.town
    TROUBLES[trouble](town)
    found = contents(site, [1, 2])
    site.start_api()
    site.start_worker(workers=1)
    healthy(site)
    moves(site, found, 1)
    place(name, True)
    healthy(site)
    moves(site, found, 2)


@pytest.mark.parametrize("name", ["redis", pytest.param("db", marks=full_only), "api"])
def test_the_last_address_is_kept_while_there_are_no_names(town_site, place, name):
    """Each is started anew where it stood."""
    site, town = town_site, town_site.town
    found = contents(site, [1, 2])
    site.start_api()
    site.start_worker(workers=1)
    moves(site, found, 1)
    with town.unplugged("dns"):
        if name == "api":  # it learned no address yet: its servers' are in its /etc/hosts
            town.hosts["api"].names(redis=town.redis.host.address, db=town.db.host.address)
        place(name, False)
        healthy(site)
        moves(site, found, 2)


def refusals(host):
    """How many connections this host has refused so far: each costs it an RST (snmp(8), RFC 4022)."""
    names, values = (line.split() for line in host.run("cat", "/proc/net/snmp").stdout.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("OutRsts")])


def test_the_address_of_the_api_that_was_reached_is_tried_first(town_site):
    """Not the one before it for each commit of a group: where that is a black hole, each waited half a second."""
    site, town = town_site, town_site.town
    desk = town.hosts["desk"]
    found = contents(site, range(1, 17), size=1000)
    town.name("api", desk.address, town.hosts["api"].address)
    site.start_api()
    for cid in found:
        site.post(cid, 5000)
    before = refusals(desk)
    site.start_worker(workers=1)
    all_settled(site, found)
    assert refusals(desk) - before == 1


@pytest.mark.parametrize("first", [pytest.param("refuses", marks=full_only), "is a black hole"])
@pytest.mark.parametrize("name", ["redis", "db", "api"])
def test_the_second_address_is_used(town_site, place, name, first):
    """At the start, and when the server comes back; a worker and a command, too."""
    site, town = town_site, town_site.town
    desk, server = town.hosts["desk"], town.hosts[name]
    found = contents(site, [1, 2])
    if first == "is a black hole":
        town.cut("desk", "api", "storage1")
    town.name(name, desk.address, server.address)
    site.start_api()
    site.start_worker(workers=1)
    healthy(site)
    moves(site, found, 1)
    place(name, False)
    healthy(site)
    moves(site, found, 2)
    assert town.storage[0].run("explain", "2", timeout=60).returncode == 0
