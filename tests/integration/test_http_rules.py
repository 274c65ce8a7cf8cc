"""HTTP on the wire: persistence, expectations, pipelining and methods. tests/http-rules.md lists the rules; what
can be seen in the bytes alone is in tests/unit/test_http_parse.c."""
import pathlib
import re
import select

import pytest

from wire import HEALTH, Wire, post, until

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def api(servers, tmp_path_factory):
    from conftest import make_site
    site = make_site(servers, tmp_path_factory.mktemp("http"))
    site.sample()
    site.start_api()
    yield site.api
    site.close()


@pytest.fixture
def wire(api):
    with Wire(api) as w:
        yield w


def get(path, extra=b"", method=b"GET", version=b"HTTP/1.1"):
    return method + b" " + path + b" " + version + b"\r\nHost: x\r\n" + extra + b"\r\n"


EXPECT = b"Expect: 100-continue\r\n"


def head_of(request):
    return request[:request.index(b"\r\n\r\n") + 4]


# ---- does the connection go on? ----

@pytest.mark.parametrize("request_bytes,status", [
    pytest.param(get(b"/nothing"), 404, id="unknown-path"),
    pytest.param(get(b"/post_sentence"), 405, id="wrong-method"),
    pytest.param(post(b"x=1", b"/health"), 405, id="wrong-method-content"),
    pytest.param(post(b"cid=1abc&count=1"), 400, id="bad-parameter"),
    pytest.param(post(b"cid=99&count=1"), 404, id="unknown-cid"),
    pytest.param(post(b"cid=8", b"/update_sentence"), 409, id="conflict"),
    pytest.param(post().replace(b"application/x-www-form-urlencoded", b"text/csv"), 415, id="type"),
    pytest.param(post(extra=b"Content-Encoding: gzip\r\n"), 415, id="encoding"),
    pytest.param(post(extra=b"Expect: tea\r\n"), 417, id="expectation"),
    pytest.param(get(b"/health", method=b"DELETE"), 501, id="method"),
    pytest.param(get(b"https://x/health"), 421, id="https"),
    pytest.param(post(path=b"/nothing"), 404, id="unknown-path-content"),
])
def test_goes_on_after(wire, request_bytes, status):
    reply = wire.ask(request_bytes)
    assert reply.status == status and not reply.closes
    assert "error" in reply.body or status == 409
    assert wire.alive()


@pytest.mark.parametrize("request_bytes,status", [
    pytest.param(b"nonsense\r\n", 400, id="no-request"),
    pytest.param(get(b"/health", b"A : b\r\n"), 400, id="field"),
    pytest.param(get(b"/health", b"Host: y\r\n"), 400, id="host"),
    pytest.param(post(extra=b"Transfer-Encoding: chunked\r\n"), 400, id="two-lengths"),
    pytest.param(post(extra=b"Content-Length: 1\r\n"), 400, id="length-twice"),
    pytest.param(get(b"/health", b"Transfer-Encoding: gzip\r\n"), 400, id="coding"),
    pytest.param(get(b"/health", b"Transfer-Encoding: gzip, chunked\r\n"), 501, id="coding-unknown"),
    pytest.param(get(b"/health", b"Transfer-Encoding: chunked\r\n", version=b"HTTP/1.0"), 400, id="chunked-1.0"),
    pytest.param(get(b"/post_sentence", b"Transfer-Encoding: chunked\r\n", b"POST") + b"zz\r\n", 400, id="chunk"),
    pytest.param(get(b"/post_sentence", method=b"POST"), 411, id="no-length"),
    pytest.param(get(b"/post_sentence", b"Content-Length: 99999\r\n", b"POST"), 413, id="large"),
    pytest.param(get(b"/" + b"a" * 8000), 414, id="long-target"),
    pytest.param(get(b"/health", b"A: " + b"b" * 16384 + b"\r\n"), 431, id="large-head"),
    pytest.param(get(b"/health", version=b"HTTP/2.0"), 505, id="version"),
    pytest.param(b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501, id="connect"),
])
def test_ends_after(wire, request_bytes, status):
    """One refusal that says close; what is pipelined behind it is not looked at."""
    reply = wire.ask(request_bytes + HEALTH)
    assert reply.status == status and reply.closes
    assert "error" in reply.body
    assert wire.ended()


def test_what_still_comes_after_a_refusal_is_read(wire):
    """A close with unread bytes would be a reset, which may take the answer away before it is read."""
    wire.send(get(b"/post_sentence", b"Content-Length: 9999999\r\n", b"POST"))
    assert select.select([wire.socket], [], [], 20)[0]  # it is answered, and nothing more of it is wanted
    for _ in range(100):
        wire.send(b"x" * 1000)
    assert wire.reply().status == 413
    assert wire.socket.recv(1) == b""  # and no ConnectionResetError
    wire.send(b"x")


def test_what_still_comes_after_a_refusal_is_not_read_for_ever(wire):
    wire.send(get(b"/post_sentence", b"Content-Length: 9999999\r\n", b"POST"))
    assert wire.reply().status == 413

    def refused():
        try:
            wire.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False
    until(refused, "the server's close")


def test_close_is_obeyed(wire):
    reply = wire.ask(get(b"/health", b"Connection: close\r\n") + HEALTH)
    assert reply.status == 200 and reply.closes
    assert wire.ended()


def test_persistent_by_default(wire):
    for _ in range(3):
        reply = wire.ask(HEALTH)
        assert reply.status == 200 and "connection" not in reply.headers


def test_1_0_ends(wire):
    reply = wire.ask(b"GET /health HTTP/1.0\r\n\r\n")
    assert reply.status == 200 and reply.closes
    assert wire.ended()


def test_1_0_keep_alive(wire):
    for _ in range(2):
        reply = wire.ask(get(b"/health", b"Connection: keep-alive\r\n", version=b"HTTP/1.0"))
        assert reply.status == 200 and reply.headers["connection"] == "keep-alive"


def test_1_0_post(wire):
    assert wire.ask(post(version=b"HTTP/1.0")).status == 200
    assert wire.ended()


def test_1_2_is_answered_as_1_1(wire):
    assert wire.ask(get(b"/health", version=b"HTTP/1.2")).status == 200
    assert wire.alive()


# ---- methods ----

@pytest.mark.parametrize("path,allow", [(b"/post_sentence", "POST, OPTIONS"), (b"/update_sentence", "POST, OPTIONS"),
                                        (b"/health", "GET, HEAD, OPTIONS")])
def test_allow(wire, path, allow):
    for method in (b"GET", b"HEAD", b"POST", b"OPTIONS"):
        length = b"Content-Length: 0\r\n" if method == b"POST" else b""
        reply = wire.ask(get(path, length, method), head_only=method == b"HEAD")
        if method.decode() in allow.split(", ") and method != b"OPTIONS":
            assert reply.status != 405
        else:
            assert reply.status == (200 if method == b"OPTIONS" else 405)
            assert reply.headers["allow"] == allow


def test_options_of_the_server(wire):
    for target in (b"*", b"http://x"):
        reply = wire.ask(get(target, method=b"OPTIONS"))
        assert reply.status == 200 and reply.headers["allow"] == "GET, HEAD, POST, OPTIONS"


def test_options_with_content(wire):
    assert wire.ask(get(b"/health", b"Content-Length: 3\r\n", b"OPTIONS") + b"abc").status == 200
    assert wire.alive()


def test_head_on_errors(wire):
    for path, status in ((b"/nothing", 404), (b"/post_sentence", 405), (b"https://x/", 421)):
        reply = wire.ask(get(path, method=b"HEAD"), head_only=True)
        assert reply.status == status and int(reply.headers["content-length"]) > 0
        assert wire.alive()  # which would read a body as its own answer
    assert wire.ask(b"HEAD / HTTP/1.1\r\n\r\n", head_only=True).status == 400
    assert wire.ended()


def test_content_of_a_get_is_not_a_request(wire):
    assert wire.ask(get(b"/health", b"Content-Length: %d\r\n" % len(HEALTH)) + HEALTH).status == 200
    assert wire.alive()
    assert wire.have == b""


# ---- targets and fields ----

def test_percent_encoded_path(wire):
    assert wire.ask(get(b"/%68ealth")).status == 200
    assert wire.ask(get(b"/%2Fhealth")).status == 404
    assert wire.ask(get(b"/health%00")).status == 404


def test_percent_encoded_cid(wire):
    assert wire.ask(get(b"/jobs/%37")).body == wire.ask(get(b"/jobs/7")).body != ""
    for path in (b"/jobs/7%00", b"/jobs/%2F7", b"/jobs/+7", b"/jobs/%207", b"/jobs/%30%37"):
        assert wire.ask(get(path)).status == 400


def test_absolute_form_beats_host(wire):
    reply = wire.ask(b"GET http://a.example:8080/health?x HTTP/1.1\r\nHost: b.example\r\n\r\n")
    assert reply.status == 200


def test_query_is_ignored(wire):
    assert wire.ask(get(b"/health?a=b")).status == 200


def test_empty_line_between_requests(wire):
    assert wire.ask(HEALTH + b"\r\n" + HEALTH).status == 200
    assert wire.reply().status == 200


DATE = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT"


def test_date_in_every_answer(wire):
    for request in (HEALTH, get(b"/nothing"), post(), get(b"/x", method=b"OPTIONS"), b"bad\r\n"):
        assert re.fullmatch(DATE, wire.ask(request).headers["date"])


def test_unsupported_type_says_what_is_supported(wire):
    reply = wire.ask(post().replace(b"application/x-www-form-urlencoded", b"text/csv"))
    assert reply.headers["accept"] == "application/x-www-form-urlencoded, application/json"
    reply = wire.ask(post(extra=b"Content-Encoding: br\r\n"))
    assert reply.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("kind,status", [
    ("application/x-www-form-urlencoded", 200), ("APPLICATION/X-WWW-FORM-URLENCODED; charset=utf-8", 200),
    ("application/x-www-form-urlencoded ;x", 200), ("application/x-www-form-urlencodedx", 415),
    ("application/x-www-form-urlencoded x", 415), ("text/plain", 415), ("application/json", 400)])
def test_content_type(wire, kind, status):
    assert wire.ask(post().replace(b"application/x-www-form-urlencoded", kind.encode())).status == status


# ---- preconditions ----

@pytest.mark.parametrize("request_bytes,status", [
    pytest.param(get(b"/health", b'If-Match: "a"\r\n'), 412, id="tag"),
    pytest.param(get(b"/health", b'If-Match: W/"a", "b"\r\n'), 412, id="tags"),
    pytest.param(get(b"/health", b"If-Match: *\r\n"), 200, id="any"),
    pytest.param(get(b"/health", b'If-Match: *\r\nIf-Match: "a"\r\n'), 412, id="any-and-tag"),
    pytest.param(post(extra=b'If-Match: "a"\r\n'), 412, id="post-tag"),
    pytest.param(post(extra=b"If-Match: *\r\n"), 412, id="post-any"),
    pytest.param(post(extra=b"If-None-Match: *\r\n"), 200, id="post-none"),
    pytest.param(get(b"/health", b"If-None-Match: *\r\n"), 304, id="none"),
    pytest.param(get(b"/health", b'If-None-Match: "a"\r\n'), 200, id="none-tag"),
    pytest.param(get(b"/jobs/99", b"If-None-Match: *\r\n"), 404, id="none-of-nothing"),
    pytest.param(get(b"/nothing", b'If-Match: "a"\r\n'), 404, id="unknown-path"),
    pytest.param(get(b"/post_sentence", b'If-Match: "a"\r\n'), 405, id="wrong-method"),
    pytest.param(get(b"/health", b'If-Match: "a"\r\n', b"OPTIONS"), 200, id="options"),
    pytest.param(get(b"/health", b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                     b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), 200, id="dates"),
])
def test_preconditions(wire, request_bytes, status):
    """Nothing here has an entity tag or a date of its last change."""
    reply = wire.ask(request_bytes, head_only=status == 304)
    assert reply.status == status and "date" in reply.headers
    assert wire.alive()


def test_what_fails_its_precondition_is_not_done(wire):
    count = wire.ask(post(b"cid=7&count=1555")).body
    assert wire.ask(post(b"cid=7&count=1666", extra=b'If-Match: "a"\r\n')).status == 412
    assert wire.ask(get(b"/jobs/7")).body.count("1555") and "1555" in count
    request = post(b"cid=7&count=1777", extra=EXPECT + b'If-Match: "a"\r\n')
    assert wire.ask(head_of(request)).status == 412
    assert wire.ended()


# ---- expectations ----

def test_continue_comes_before_the_content(wire):
    request = post(extra=EXPECT)
    for _ in range(2):  # each request of a connection anew
        assert wire.ask(head_of(request)).status == 100
        assert wire.ask(b"cid=7&count=1964").status == 200
    assert wire.alive()


def test_continue_before_chunks(wire):
    head = (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")
    assert wire.ask(head).status == 100
    assert wire.ask(b"10\r\ncid=7&count=1964\r\n0\r\n\r\n").status == 200
    assert wire.alive()


def test_continue_is_omitted_when_content_is_there(wire):
    assert wire.ask(post(extra=EXPECT)).status == 200
    assert wire.alive()


def test_continue_is_not_for_1_0(wire):
    request = post(extra=EXPECT, version=b"HTTP/1.0")
    wire.send(head_of(request))
    assert wire.ask(b"cid=7&count=1964").status == 200


@pytest.mark.parametrize("request_bytes,status", [
    pytest.param(post(path=b"/nothing", extra=EXPECT), 404, id="path"),
    pytest.param(post(path=b"/health", extra=EXPECT), 405, id="method"),
    pytest.param(post(b"x" * 5000, extra=EXPECT), 413, id="large"),
    pytest.param(post(extra=EXPECT).replace(b"application/x-www-form-urlencoded", b"text/csv"), 415, id="type"),
    pytest.param(post(extra=EXPECT + b"Content-Encoding: gzip\r\n"), 415, id="encoding"),
    pytest.param(post(extra=b"Expect: tea\r\n"), 417, id="expectation"),
    pytest.param(post(extra=EXPECT).replace(b"POST", b"PUT"), 501, id="unknown-method"),
    pytest.param(post(path=b"https://x/post_sentence", extra=EXPECT), 421, id="https"),
    pytest.param(get(b"/post_sentence", EXPECT, b"POST"), 411, id="no-length"),
])
def test_final_answer_instead_of_continue(wire, request_bytes, status):
    """Nobody knows whether the content still comes, so the connection ends."""
    reply = wire.ask(head_of(request_bytes))
    assert reply.status == status and reply.closes
    assert wire.ended()


# ---- pipelining and half-closed clients ----

def test_pipelined_answers_keep_their_order(wire):
    """Far more than one turn takes, some at once and some by the database."""
    paths = [b"/n%d" % i for i in range(1000)]
    wire.send(b"".join(get(p) + (HEALTH if i % 50 == 0 else b"") for i, p in enumerate(paths)))
    for i, path in enumerate(paths):
        assert f"'{path.decode()}'" in wire.reply().body
        if i % 50 == 0:
            assert '"redis"' in wire.reply().body


def test_pipelined_posts_in_pieces(wire):
    data = b"".join(post(b"cid=7&count=%d" % n) for n in range(1000, 1050))
    for i in range(0, len(data), 37):
        wire.send(data[i:i + 37])
    for n in range(1000, 1050):
        assert f'"count": "{n}"' in wire.reply().body


def test_half_closed_client_gets_its_answers(wire):
    wire.send(post() + HEALTH + post(b"cid=8", b"/update_sentence")).shut()
    assert [wire.reply().status for _ in range(3)] == [200, 200, 409]
    assert wire.ended()


def test_half_closed_in_a_long_pipeline(wire):
    wire.send(get(b"/n") * 500).shut()
    assert [wire.reply().status for _ in range(500)] == [404] * 500
    assert wire.ended()


def test_half_closed_in_a_request(wire):
    wire.send(HEALTH + post()[:-3]).shut()
    assert wire.reply().status == 200
    assert wire.ended()


def test_byte_by_byte(wire):
    request = post(extra=b"X: y\r\n") + get(b"/nothing")
    for i in range(len(request)):
        wire.send(request[i:i + 1])
    assert wire.reply().status == 200
    assert wire.reply().status == 404


def test_chunked_byte_by_byte(wire):
    request = (b"POST /post_sentence HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"5;a=\"b\"\r\ncid=7\r\n0b\r\n&count=1964\r\n0\r\nTrailer: x\r\n\r\n")
    for i in range(len(request)):
        wire.send(request[i:i + 1])
    assert '"count": "1964"' in wire.reply().body
    assert wire.alive()


# ---- the table ----

def named_tests():
    """Every test in the last column of the table, as (line, file, name)."""
    for number, line in enumerate((ROOT / "tests/http-rules.md").read_text().splitlines(), 1):
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 4 or cells[0] in ("rule", "what", "---"):
            continue
        names = re.findall(r"`([^`]+)`", cells[3])
        yield from ((number, cells[0], *name.split(":", 1)) for name in names)
        if not names:
            yield number, cells[0], None, None


def test_every_rule_names_tests_that_exist():
    sources = {"parse": "tests/unit/test_http_parse.c", "server": "tests/unit/test_http_server.c",
               "peers": "tests/unit/test_peers.c",
               "http": "tests/integration/test_http.py", "rules": "tests/integration/test_http_rules.py",
               "limits": "tests/integration/test_http_limits.py"}
    texts = {key: (ROOT / path).read_text() for key, path in sources.items()}
    found, missing = 0, []
    for number, rule, key, name in named_tests():
        text, found = texts.get(key, ""), found + 1
        exact = re.escape(name or "")
        shapes = [rf'\{{"{exact}",', rf"cmocka_unit_test\({exact}\)"] if key in ("parse", "server", "peers") else [
            rf"^def {exact}\("]
        if not name or not any(re.search(shape, text, re.M) for shape in shapes):
            missing.append(f"tests/http-rules.md:{number}: {rule}: {key}:{name}")
    assert not missing, "\n".join(missing)
    assert found > 100


def test_every_parser_case_is_in_the_table():
    cases = re.findall(r'^    \{"([a-z0-9.-]+)",', (ROOT / "tests/unit/test_http_parse.c").read_text(), re.M)
    named = {name for _, _, key, name in named_tests() if key == "parse"}
    assert len(cases) > 100 and not [c for c in cases if c not in named]
