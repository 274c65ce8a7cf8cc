"""A server that refuses says so itself: in the log, status, commands and in what posts are answered; it is not away."""
import json
import os
import re
import subprocess

import pytest

from conftest import Site, wait_until
from harness.pipes import connect
from harness.servers import TIERD, Redis


@pytest.fixture
def own(own_servers, tmp_path):
    s = Site(*own_servers, tmp_path / "levels")
    s.sample()
    yield s
    s.close()


def command(site, *words):
    return subprocess.run([TIERD, *words, *site.common()], capture_output=True, text=True, timeout=30, check=False)


def expect(site, server, words, code=78):
    """`server` is named with the words, everywhere; nobody says that it is away."""
    api = site.start_api()
    worker = site.start_worker()
    short = "redis" if server == "redis" else "db"
    name = "redis" if server == "redis" else "the database"
    log = "redis" if server == "redis" else "database"
    for process in (api, worker):
        line = process.wait_line(f"{log} refuses us", timeout=10)
        assert words in line.replace('\\"', '"'), line
    health = json.loads(site.request("GET", "/health").body)
    assert words in health[short] and health[short].startswith("refuses us: ")
    said = json.loads(site.post(1, 1964).body)["error"]
    assert said.startswith(f"{name} refuses us: ") and words in said
    result = command(site, "explain", "1")
    assert result.returncode == code and f"{name} refuses us: " in result.stderr and words in result.stderr
    result = command(site, "status")
    assert result.returncode == 69 and "refuses us (" in result.stdout and words in result.stdout
    ids = [re.search(r"worker_id=(\S+)", line).group(1) for line in worker.lines if f"{log} refuses us" in line]
    assert api.count(f"{log} refuses us") == 1 and len(ids) == len(set(ids)), "once for each process"
    for process in (api, worker):
        assert process.count(f"{log} is away") == 0


def with_db(site, url):
    redis = site.redis.url
    site.common = lambda: [f"--redis={redis}", f"--db={url}"]


def test_the_password_of_the_database(own):
    own.db.sql("CREATE USER app@'%' IDENTIFIED BY 'x'; CREATE USER app@localhost IDENTIFIED BY 'x'")
    with_db(own, own.db.url.replace("root@", "app@"))
    expect(own, "db", "Access denied for user 'app'@'localhost' (using password: NO)")


def test_an_unknown_database(own):
    with_db(own, own.db.url.replace("/tierd", "/nosuch"))
    expect(own, "db", "Unknown database 'nosuch'")


def test_no_right_on_the_database(own):
    own.db.sql("CREATE USER app@'%'; CREATE USER app@localhost")
    with_db(own, own.db.url.replace("root@", "app@"))
    expect(own, "db", "Access denied for user 'app'@")


def test_the_database_wants_tls(own):
    own.db.sql("CREATE USER app@'%' REQUIRE SSL; CREATE USER app@localhost REQUIRE SSL; GRANT ALL ON tierd.* TO app@'%', app@localhost")
    with_db(own, own.db.url.replace("root@", "app@"))
    expect(own, "db", "Access denied for user 'app'@")


def test_redis_wants_a_password(own):
    own.redis.cli("CONFIG", "SET", "requirepass", "secret")
    expect(own, "redis", "NOAUTH Authentication required.")


def test_the_password_of_redis(own, tmp_path):
    own.redis.cli("CONFIG", "SET", "requirepass", "secret")
    wrong = tmp_path / "wrong"
    wrong.write_text("guess\n")
    common = [*own.common(), f"--redis-password-file={wrong}"]
    own.common = lambda: common
    expect(own, "redis", "WRONGPASS invalid username-password pair or user is disabled.")


def test_redis_has_no_such_database(own):
    common = [f"--redis={own.redis.url_of(99)}", f"--db={own.db.url}"]
    own.common = lambda: common
    expect(own, "redis", "ERR DB index is out of range")


def test_redis_lets_nobody_in(own, tmp_path):
    """One line however often it is tried, and served when it lets us in."""
    redis = Redis(tmp_path / "narrow", "--maxclients", "2")
    try:
        redis.start()
        keep = []
        for _ in range(2):
            keep.append(connect(redis.address, 5))
            keep[-1].sendall(b"PING\r\n")
            assert keep[-1].recv(100) == b"+PONG\r\n"
        common = [f"--redis={redis.url}", f"--db={own.db.url}"]
        own.common = lambda: common
        api = own.start_api()
        api.wait_line("redis refuses us.*max number of clients reached")
        for s in keep:
            s.close()
        wait_until(lambda: own.post(1, 1964).status == 200, 15, "a post")
        assert api.count("redis refuses us") == 1 and api.count("redis is away") == 0
    finally:
        redis.close()


@pytest.mark.parametrize("zone, known", [("Europe/Nowhere", False), ("XX", False), ("/no/file", False), (":Nowhere/Else", False),
                                         ("CET-1CEST,M3.5.0,M10.5.0/3", True), ("<+03>-3", True), ("UTC", True), ("", True)])
def test_a_time_zone_that_is_not_there(zone, known, tmp_path):
    """Only where there is a window; a wrong URL is what else is wrong then."""
    def run(*args):
        return subprocess.run([TIERD, "--role=worker", "--root=/", f"--redis=unix://{tmp_path}/none", "--listen=nowhere", *args],
                              env={**os.environ, "TZ": zone}, capture_output=True, text=True, timeout=10, check=False)
    refused = run("--window=01:00-02:00", "--db-password-file=/dev/null")
    assert refused.returncode == 78 and "cannot read a password" in refused.stderr  # what is looked at before
    if known:
        return
    result = run("--window=01:00-02:00")
    assert result.returncode == 78
    assert result.stderr == (f"tierd: --window: the time zone '{zone.removeprefix(':')}' of TZ is not known on this machine "
                             "(/usr/share/zoneinfo)\n")


def test_localhost_with_a_port_is_tcp(own):
    own.common = lambda: [f"--redis={own.redis.url}", f"--db=mysql://root@localhost:{own.db.port}/tierd"]
    assert isinstance(own.db.address, tuple)
    own.both()
    wait_until(lambda: own.post(1, 1964).status == 200, 15, "a post")
    own.wait_moved(1, "a.mp4", "silver")
    assert command(own, "status").returncode == 0
