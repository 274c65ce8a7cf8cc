"""Posts that arrive together share one SELECT and one script call; each must still be what it would be alone."""
import json
import re
import socket

import pytest

LEVEL_OF = {"bronze": 500, "silver": 1500, "gold": 2500}


@pytest.fixture
def api(site):
    site.sample()
    site.start_api()
    return site


def together(site, posts):
    """One connection for each post, all sent before any answer is read: [(status, body)]."""
    host, port = site.api.address.rsplit(":", 1)
    lines = [socket.create_connection((host, int(port)), timeout=10) for _ in posts]
    for line, (cid, count) in zip(lines, posts):
        body = f"cid={cid}&count={count}".encode()
        line.sendall(b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answers = []
    for line in lines:
        out = b""
        while chunk := line.recv(65536):
            out += chunk
        line.close()
        head, body = out.decode().split("\r\n\r\n", 1)
        answers.append((int(head.split()[1]), body))
    return answers


def field(site, cid, name):
    return site.redis.cli("HGET", f"tierd:job:{cid}", name)


def test_many_contents_at_once(api):
    cids, names = range(100, 180), list(LEVEL_OF)
    api.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
               + ", ".join(f"({cid}, '{names[cid % 3]}', '{cid}.bin')" for cid in cids))
    posts = [(cid, LEVEL_OF[names[cid % 7 % 3]]) for cid in cids]
    for (cid, count), (status, body) in zip(posts, together(api, posts)):
        assert status == 200
        assert api.redis.cli("GET", str(cid)) == body
        job = json.loads(body)
        assert (job["cid"], job["count"], job["filename"]) == (str(cid), str(count), f"{cid}.bin")
        wanted = job["target"] != job["db_level"]
        assert job["status"] == ("update" if wanted else "done")
        assert (api.redis.cli("ZSCORE", "tierd:due", str(cid)) != "") == wanted
        assert api.redis.cli("EXISTS", f"tierd:job:{cid}") == "0"  # the first claim makes it
    assert api.redis.cli("LLEN", "tierd:wake") == "1"


def test_one_content_many_times_at_once(api):
    posts = [(7, 1000 + i) for i in range(200)]
    answers = together(api, posts)
    assert {status for status, _ in answers} == {200}
    assert {json.loads(body)["count"] for _, body in answers} == {str(count) for _, count in posts}
    assert api.redis.cli("GET", "7") in {body for _, body in answers}
    assert api.redis.cli("ZCARD", "tierd:due") == "1"


def test_each_post_of_a_batch_has_its_own_end(api):
    """Foreign types in the way of two of them, an unknown cid, a done job of an unknown past: the rest goes through."""
    api.redis.cli("LPUSH", "2", "x")
    api.redis.cli("SET", "tierd:job:4", "x")
    api.redis.cli("SET", "5", '{"cid": "5", "target": "gold", "db_level": "gold", "status": "done"}')
    posts = [(cid, 2500) for cid in (1, 2, 3, 4, 5, 99, 7, 8)]
    answers = dict(zip([cid for cid, _ in posts], together(api, posts)))
    assert {cid: status for cid, (status, _) in answers.items()} == {
        1: 200, 2: 409, 3: 200, 4: 409, 5: 200, 99: 404, 7: 200, 8: 200}
    assert api.redis.cli("TYPE", "2") == "list" and api.redis.cli("GET", "tierd:job:4") == "x"
    assert api.redis.cli("EXISTS", "4", "99") == "0"
    for cid in (1, 3, 5, 7, 8):
        assert api.redis.cli("GET", str(cid)) == answers[cid][1]
    assert sorted(api.redis.cli("ZRANGE", "tierd:due", "0", "-1").split()) == ["3", "5", "7", "8"]


def test_a_full_redis_takes_nothing(api):
    memory = re.search(r"used_memory:(\d+)", api.redis.cli("INFO", "memory")).group(1)
    api.redis.cli("CONFIG", "SET", "maxmemory", str(int(memory) // 2))
    try:
        answers = together(api, [(cid, 2500) for cid in range(1, 9)])
    finally:
        api.redis.cli("CONFIG", "SET", "maxmemory", "0")
    assert {status for status, _ in answers} == {503}
    assert api.redis.cli("EXISTS", *map(str, range(1, 9)), "tierd:due", "tierd:job:7") == "0"
    assert api.post(7, 2500).status == 200


def test_flushed_scripts_are_loaded_again(api):
    api.redis.cli("SCRIPT", "FLUSH")
    assert {status for status, _ in together(api, [(cid, 2500) for cid in range(1, 9)])} == {200}


def test_flushed_scripts_are_no_reason_to_refuse(api):
    """An update that is refused would make a commit wait for a second."""
    api.post(7, 500)
    for ask in (lambda: api.update(7), lambda: api.request("GET", "/jobs/7"), lambda: api.request("GET", "/status")):
        api.redis.cli("SCRIPT", "FLUSH")
        answer = ask()
        assert answer.status == 200, answer.body


def test_a_queued_job_keeps_its_place(api):
    api.post(7, 1500)
    place = api.redis.cli("ZSCORE", "tierd:due", "7")
    for count, target in ((1600, "silver"), (2500, "gold")):
        job = json.loads(api.post(7, count).body)
        assert (job["count"], job["target"]) == (str(count), target)
        assert api.redis.cli("ZSCORE", "tierd:due", "7") == place
    assert json.loads(api.post(7, 5).body)["status"] == "done"
    assert api.redis.cli("ZSCORE", "tierd:due", "7") == ""


def begun(site, cid, **more):
    """The job as a worker that gave its claim up left it: to silver."""
    fields = {"state": "queued", "rev": "1", "token": "5", "src": "bronze", "target": "silver", "filename": "g.mp4",
              "head": site.redis.cli("GET", str(cid)).split("null")[0], **more}
    site.redis.cli("HSET", f"tierd:job:{cid}", *[text for pair in fields.items() for text in pair])


def test_a_job_that_was_claimed_once_keeps_its_place(api):
    api.post(7, 1500)
    begun(api, 7)
    api.post(7, 1600)  # which says what the row is like
    place, rev = api.redis.cli("ZSCORE", "tierd:due", "7"), field(api, 7, "rev")
    assert json.loads(api.post(7, 1700).body)["count"] == "1700"
    assert '"count": "1700"' in field(api, 7, "head")
    assert (api.redis.cli("ZSCORE", "tierd:due", "7"), field(api, 7, "rev")) == (place, rev)
    api.post(7, 2500)
    assert (field(api, 7, "target"), field(api, 7, "state")) == ("gold", "queued")
    assert int(field(api, 7, "rev")) > int(rev)


def test_a_post_clears_what_failed_before(api):
    api.post(7, 1500)
    begun(api, 7, state="backoff", attempts="3", crashes="1", waits="2", error="no")
    api.redis.cli("ZADD", "tierd:due", "99999999999999", "7")
    assert api.post(7, 1700).status == 200
    assert field(api, 7, "state") == "queued"
    assert [field(api, 7, f) for f in ("attempts", "crashes", "waits", "error")] == [""] * 4
    assert float(api.redis.cli("ZSCORE", "tierd:due", "7")) < 99999999999999


def test_a_post_for_a_claimed_job(api):
    """The worker's name stays in the JSON; a new target, or a row that changed, is a new revision."""
    api.post(7, 1500)
    begun(api, 7, state="claimed", worker="h.1.x")
    job = json.loads(api.post(7, 1600).body)
    assert (job["worker_id"], job["status"], job["count"], field(api, 7, "rev")) == ("h.1.x", "update", "1600", "1")
    job = json.loads(api.post(7, 5).body)
    assert (job["worker_id"], job["status"], job["target"], field(api, 7, "rev")) == ("h.1.x", "done", "bronze", "2")
    api.db.sql("UPDATE contents SET update_time = '2031-01-01' WHERE cid = 7")
    api.post(7, 6)
    assert field(api, 7, "rev") == "3"


def test_a_row_that_changed_is_seen_at_once(api):
    """No look-up is remembered: the next post goes by what the database says now."""
    assert json.loads(api.post(7, 1500).body)["db_level"] == "bronze"
    api.redis.cli("FLUSHALL")
    api.db.sql("UPDATE contents SET content_level = 'silver' WHERE cid = 7")
    job = json.loads(api.post(7, 1500).body)
    assert (job["db_level"], job["status"]) == ("silver", "done")


def test_names_too_long_for_a_job(own_site):
    """Neither Redis nor the database is away; nothing of it is tried again."""
    site = own_site
    site.db.sql("ALTER TABLE contents MODIFY filename VARBINARY(3072) NOT NULL")
    for cid in (1, 2):
        site.db.sql(f"INSERT INTO contents (cid, content_level, filename) VALUES ({cid}, 'bronze', REPEAT(CHAR({cid}), 3000))")
    worker = site.both()
    answer = site.post(1, 5000)
    assert answer.status == 500 and "the names in the catalogue are too long for a job" in answer.body
    site.redis.cli("SET", "2", '{"cid": "2", "count": "1", "target": "gold", "db_level": "bronze", "filename": "x", '
                               '"worker_id": null, "status": "update"}')
    worker.wait_line("the job is dead.*cid=2.*too long for a job")
