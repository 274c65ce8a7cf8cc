"""Rows of the fault matrix about Redis, MariaDB, the API and clocks."""
import json
import os
import signal
import socket
import threading

import pytest
from conftest import wait_until
from harness.strace import available
from holding import COMMITTING, DURABLE, content, held, settled

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))


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
