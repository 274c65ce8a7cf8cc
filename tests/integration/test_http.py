"""What the outside sees of the API: CONTRACT.md, section 2."""
import json
import re

import pytest

from conftest import make_site


@pytest.fixture
def api(site):
    site.sample()
    site.start_api()
    return site


@pytest.fixture(scope="module")
def refusing(servers, tmp_path_factory):
    """One API for all that must be refused whatever stands in the catalogue."""
    site = make_site(servers, tmp_path_factory.mktemp("refusing"))
    site.start_api()
    yield site
    site.close()


def test_golden_post(api):
    answer = api.post(7, 1964)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == ('{"cid": "7", "count": "1964", "target": "silver", "db_level": "bronze", '
                           '"filename": "g.mp4", "worker_id": null, "status": "update"}')
    assert api.redis.cli("GET", "7") == answer.body


def test_golden_update_of_nothing(api):
    answer = api.update(8)
    assert (answer.status, answer.headers["Content-Type"]) == (409, "text/plain")
    assert answer.body == "check your status again"


def test_golden_update_after_a_move(api):
    api.start_worker()
    api.post(7, 1964)
    api.wait_moved(7, "g.mp4", "silver")
    answer = api.update(7)
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "text/plain", "7")


def test_update_while_the_move_is_wanted(api):
    api.post(7, 1964)
    assert api.update(7).status == 409
    assert api.level(7) == "bronze"


def test_post_for_where_it_is_is_done_at_once(api):
    body = api.post(7, 5).body
    assert json.loads(body)["status"] == "done"
    assert json.loads(body)["target"] == json.loads(body)["db_level"] == "bronze"
    assert api.update(7).body == "7"
    assert 0 < int(api.redis.cli("PTTL", "7")) <= 7 * 86400 * 1000


@pytest.mark.parametrize("count,target", [(0, "bronze"), (999, "bronze"), (1000, "silver"), (1999, "silver"),
                                          (2000, "gold"), (2**63 - 1, "gold")])
def test_the_ladder(api, count, target):
    assert json.loads(api.post(7, count).body)["target"] == target


def test_the_last_post_wins(api):
    for count in (1964, 2500, 1001, 3000):
        api.post(7, count)
    assert api.job(7)["target"] == "gold"
    assert json.loads(api.post(7, 0).body)["status"] == "done"
    assert api.redis.cli("ZSCORE", "tierd:due", "7") == ""


def test_health(api):
    answer = api.request("GET", "/health")
    assert (answer.status, answer.body) == (200, '{"status": "ok", "redis": "ok", "db": "ok"}')


def test_head_is_get_without_a_body(api):
    head, get = api.request("HEAD", "/health"), api.request("GET", "/health")
    assert head.body == "" and head.status == 200
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.body))


def test_json_body(api):
    answer = api.request("POST", "/post_sentence", '{"cid": 7, "count": "1964"}',
                         {"Content-Type": "application/json; charset=utf-8"})
    assert json.loads(answer.body)["target"] == "silver"


def test_form_decoding(api):
    answer = api.request("POST", "/post_sentence", "x=%41+b&%63id=%37&count=19%364")
    assert json.loads(answer.body)["count"] == "1964"


@pytest.mark.parametrize("cid", [2**64 - 1, 12345678901234567])
def test_large_cids(api, cid):
    api.add(cid, f"{cid}.bin", "bronze", b"x")
    assert json.loads(api.post(cid, 1500).body)["cid"] == str(cid)
    api.start_worker()
    api.wait_moved(cid, f"{cid}.bin", "silver")
    as_json = api.request("POST", "/post_sentence", '{"cid": %d, "count": 1500}' % cid,
                          {"Content-Type": "application/json"})
    assert json.loads(as_json.body)["cid"] == str(cid)


@pytest.mark.parametrize("body,named", [
    ("count=1", "cid"), ("cid=7", "count"), ("", "cid"), ("cid=7&cid=7&count=1", "cid"),
    ("cid=1abc&count=1", "1abc"), ("cid=01&count=1", "01"), ("cid=lock:1&count=1", "lock:1"),
    ("cid=0&count=1", "0"), ("cid=-1&count=1", "-1"), ("cid=%2B1&count=1", "+1"), ("cid=+1&count=1", " 1"),
    ("cid=18446744073709551616&count=1", "18446744073709551616"), ("cid=7&count=9223372036854775808", "count"),
    ("cid=7&count=1.5", "1.5"), ("cid=7&count=", "count"), ("cid=7&count=1%00", "count"), ("cid=%7&count=1", "cid"),
])
def test_bad_parameters_are_named(refusing, body, named):
    before = refusing.redis.cli("DBSIZE")
    answer = refusing.request("POST", "/post_sentence", body)
    assert answer.status == 400
    assert named in json.loads(answer.body)["error"]
    assert refusing.redis.cli("DBSIZE") == before


@pytest.mark.parametrize("body", ["", "[]", "{", '{"cid": 7.0, "count": 1}', '{"cid": true, "count": 1}',
                                  '{"cid": 7, "cid": 8, "count": 1}', '{"cid": 1e1, "count": 1}'])
def test_bad_json(refusing, body):
    answer = refusing.request("POST", "/post_sentence", body, {"Content-Type": "application/json"})
    assert answer.status == 400 and "error" in json.loads(answer.body)


def test_unknown_cid(api):
    answer = api.post(99, 1)
    assert answer.status == 404 and "99" in json.loads(answer.body)["error"]
    assert api.redis.cli("EXISTS", "99") == "0"


def test_unknown_path(refusing):
    answer = refusing.request("GET", "/nothing")
    assert answer.status == 404 and "/nothing" in json.loads(answer.body)["error"]


@pytest.mark.parametrize("method,path,allow", [("GET", "/post_sentence", "POST"), ("HEAD", "/update_sentence", "POST"),
                                               ("POST", "/health", "GET")])
def test_wrong_method(refusing, method, path, allow):
    answer = refusing.request(method, path, "" if method == "POST" else None)
    assert answer.status == 405 and allow in answer.headers["Allow"]


def test_options(refusing):
    answer = refusing.request("OPTIONS", "/post_sentence")
    assert answer.status == 200 and "POST" in answer.headers["Allow"]


@pytest.mark.parametrize("request_bytes,status", [
    (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\n\r\n", 411),
    (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n", 413),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 1\r\n\r\nx", 415),
    (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nContent-Length: 1\r\n\r\nx", 417),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 3000 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 70 + b"\r\n", 431),
    (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
])
def test_refusals(refusing, request_bytes, status):
    """Each with a JSON sentence; the connection goes on only where the request's end is known."""
    out = refusing.raw(request_bytes, timeout=2)
    assert out.startswith(b"HTTP/1.1 %d " % status), out[:200]
    head, body = out.split(b"\r\n\r\n", 1)
    assert json.loads(body)["error"]
    assert status in (415, 417) or request_bytes.startswith(b"BREW") or b"Connection: close" in head


def test_request_timeout(site):
    site.start_api("--request-timeout=200ms")
    assert site.raw(b"GET / HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")


FORM = b"cid=7&count=1964"
POST = (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 16\r\n\r\n" + FORM)


def statuses(out):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d+) ", out)]


def test_pipelining_in_order(api):
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    out = api.raw(POST + health + b"GET /no HTTP/1.1\r\nHost: x\r\n\r\n" + POST, shut=True)
    assert statuses(out) == [200, 200, 404, 200]
    assert out.index(b"silver") < out.index(b'"redis"') < out.index(b"/no")


def test_split_at_every_byte(api):
    import socket
    host, port = api.api.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(POST)):
            s.sendall(POST[i:i + 1])
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_chunked(api):
    out = api.raw(b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                  b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\ncid=7\r\n0b\r\n&count=1964\r\n0\r\nTrailer: x\r\n\r\n",
                  shut=True)
    assert statuses(out) == [200] and b'"count": "1964"' in out


def test_expect_continue(api):
    import socket
    host, port = api.api.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(POST.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")[:-len(FORM)])
        assert s.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(FORM)
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_http_1_0(api):
    out = api.raw(b"GET /health HTTP/1.0\r\n\r\n")
    assert statuses(out) == [200] and b"Connection: close" in out


def test_absolute_form_and_date(api):
    out = api.raw(b"GET http://example.org/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert statuses(out) == [200]
    assert re.search(rb"\r\nDate: \w{3}, \d{2} \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", out)


def test_a_key_that_is_no_string_is_left_alone(api):
    api.redis.cli("LPUSH", "7", "x")
    answer = api.post(7, 1964)
    assert answer.status == 409
    assert json.loads(answer.body) == {"error": "the key 7 in redis holds something that is no job: rename or delete it"}
    assert api.redis.cli("TYPE", "7") == "list"
