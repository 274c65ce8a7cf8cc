"""Servers that answer and take no writes: named by /health, the log and /metrics, left for whoever stands behind the name."""
import json
import threading
import time

import pytest

from conftest import Site, wait_until
from harness.servers import Redis

REPLICA = "takes no writes: it is a replica"


def health(site):
    answer = site.request("GET", "/health")
    return answer.status, json.loads(answer.body)


def gauge(site, name):
    text = site.request("GET", "/metrics").body
    return next(line.split()[1] for line in text.splitlines() if line.startswith(name + " "))


def wait_healthy(site, timeout=20):
    wait_until(lambda: health(site)[0] == 200, timeout, "health")


@pytest.fixture
def own(own_servers, tmp_path):
    s = Site(*own_servers, tmp_path / "levels")
    s.sample()
    yield s
    s.close()


def make_replica(site):
    site.redis.cli("REPLICAOF", "127.0.0.1", "1")


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "by itself"])
def test_redis_becomes_a_replica(own, asked):
    site = own
    site.both()
    wait_healthy(site)
    make_replica(site)
    if asked:
        wait_until(lambda: health(site) == (503, {"status": "down", "redis": REPLICA, "db": "ok"}), 15, "it is named")
    site.api.wait_line("redis takes no writes.*it is a replica", timeout=15)
    answer = site.post(1, 1964)
    assert answer.status == 503 and json.loads(answer.body) == {"error": f"redis {REPLICA}"} and answer.headers["Retry-After"]
    wait_until(lambda: gauge(site, "tierd_redis_writable") == "0", what="the metric")
    assert gauge(site, "tierd_db_writable") == "1"
    wait_until(lambda: gauge(site, "tierd_redis_up") == "1", what="it is reached again")  # each time it is left at once
    time.sleep(3)  # long enough for many attempts
    assert site.api.count("redis takes no writes") == 1 and site.api.count("redis is (away|connected)") == 1
    assert site.request("GET", "/status").status == 200
    site.redis.cli("REPLICAOF", "NO", "ONE")
    began = time.monotonic()
    wait_until(lambda: site.post(1, 1964).status == 200, 15, "a post")
    assert time.monotonic() - began < 1.3
    wait_healthy(site)
    site.wait_moved(1, "a.mp4", "silver")
    wait_until(lambda: gauge(site, "tierd_redis_writable") == "1", what="the metric")


def test_the_name_leads_elsewhere(own, tmp_path):
    """A fail-over: the old master is a replica now, and its address belongs to the new one."""
    site, old = own, own.redis
    new = Redis(tmp_path / "new")
    try:
        new.start()
        site.both()
        wait_healthy(site)
        new.cli("REPLICAOF", "127.0.0.1", str(old.port))
        wait_until(lambda: "master_link_status:up" in new.cli("INFO", "replication"), what="in step")
        new.cli("REPLICAOF", "NO", "ONE")
        old.cli("REPLICAOF", "127.0.0.1", str(new.port))
        site.api.wait_line("redis takes no writes")
        at, other = old.port, new.port
        old.cli("CONFIG", "SET", "port", "0")        # connections to it stay
        new.cli("CONFIG", "SET", "port", str(at))
        began = time.monotonic()
        wait_until(lambda: site.post(1, 1964).status == 200, 15, "a post")
        assert time.monotonic() - began < 1.3 and other != at
        wait_until(lambda: site.level(1) == "silver", what="the move")
    finally:
        new.close()


@pytest.mark.parametrize("settings, words", [
    ({"maxmemory": "1"}, "OOM command not allowed when used memory > 'maxmemory'."),
    ({"min-replicas-to-write": "1"}, "NOREPLICAS Not enough good replicas to write."),
], ids=["full", "alone"])
def test_redis_refuses_writes(own, settings, words):
    site = own
    site.both()
    wait_healthy(site)
    for name, value in settings.items():
        site.redis.cli("CONFIG", "SET", name, value)
    site.api.wait_line("redis takes no writes", timeout=15)
    status, said = health(site)
    assert status == 503 and said["redis"] == f"takes no writes: {words}" and said["db"] == "ok"
    assert words in site.post(1, 1964).body
    assert site.request("GET", "/status").status == 200
    for name in settings:
        site.redis.cli("CONFIG", "SET", name, "0")
    wait_healthy(site, 1.3)
    assert site.post(1, 1964).status == 200
    site.wait_moved(1, "a.mp4", "silver")
    assert site.api.count("redis takes no writes") == 1


def test_redis_cannot_save(own):
    site = own
    site.start_api()
    wait_healthy(site)
    site.redis.cli("CONFIG", "SET", "save", "3600 1000000")
    in_the_way = site.redis.data / "dump.rdb"
    in_the_way.mkdir()
    site.redis.cli("BGSAVE")
    site.api.wait_line("redis takes no writes.*MISCONF", timeout=10)
    assert "MISCONF" in health(site)[1]["redis"]
    in_the_way.rmdir()
    site.redis.cli("BGSAVE")
    wait_healthy(site)


@pytest.fixture
def user(own):
    """A database user that read_only binds, as it does not bind root."""
    own.db.sql("CREATE USER IF NOT EXISTS app@'%'; CREATE USER IF NOT EXISTS app@localhost;"
               "GRANT SELECT, UPDATE ON tierd.* TO app@'%'; GRANT SELECT, UPDATE ON tierd.* TO app@localhost")
    own.db.user = "app"
    own.common()  # its URL is the user's
    urls = own.common()
    own.db.user = "root"
    own.common = lambda: urls
    return own


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "by itself"])
def test_the_database_is_read_only(user, asked):
    site = user
    site.both()
    wait_healthy(site)
    site.db.sql("SET GLOBAL read_only = 1")
    words = "takes no writes: The MariaDB server is running with the --read-only option so it cannot execute this statement"
    if asked:
        wait_until(lambda: health(site) == (503, {"status": "down", "redis": "ok", "db": words}), 15, "it is named")
    site.api.wait_line("database takes no writes.*read-only", timeout=15)
    assert gauge(site, "tierd_redis_writable") == "1"
    wait_until(lambda: gauge(site, "tierd_db_writable") == "0", what="the metric")
    stop, bad = threading.Event(), []

    def read():
        while not stop.is_set():
            answer = site.request("GET", "/jobs/1")
            if answer.status != 200:
                bad.append(answer.body)
    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(3)  # long enough for many attempts
    stop.set()
    reader.join()
    assert not bad
    assert site.api.count("database takes no writes") == 1 and site.api.count("database is (away|connected)") == 1
    site.db.sql("SET GLOBAL read_only = 0")
    wait_healthy(site, 1.3)
    assert site.post(1, 1964).status == 200
    site.wait_moved(1, "a.mp4", "silver")
    assert site.api.count("database takes no writes") == 1


def test_read_only_that_does_not_bind_us(own):
    """root may write all the same."""
    own.both()
    wait_healthy(own)
    own.db.sql("SET GLOBAL read_only = 1")
    time.sleep(1.5)  # a look
    assert health(own)[0] == 200 and own.api.count("takes no writes") == 0
    assert own.post(1, 1964).status == 200
    own.wait_moved(1, "a.mp4", "silver")
