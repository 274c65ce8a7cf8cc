"""The operator's commands on a running system, and what they leave behind."""
import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import shutil
import signal
import socketserver
import struct
import subprocess
import termios
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import wait_until
from harness.servers import TIERD


def tierd(site, *words, stdin=None, env=None):
    api = [f"--api={site.api_url}"] if site.api else []
    return subprocess.run([TIERD, *words, *site.common(), *api], input=stdin, capture_output=True, text=True,
                          check=False, timeout=60, env={**os.environ, **(env or {})})


def answer(site, *words, stdin=None, status=0):
    """The JSON objects that a command prints, one a line."""
    result = tierd(site, *words, "--json", stdin=stdin)
    assert result.returncode == status, result.stderr
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    return objects[0] if len(objects) == 1 else objects


def slow_move(site, cid=50, mib=8):
    """A move that takes some 8 s, under way."""
    site.add(cid, "dir/big file.bin", "bronze", b"")
    (site.paths["bronze"] / "dir/big file.bin").write_bytes(os.urandom(mib * 2**20))
    site.start_api()
    worker = site.start_worker("--bandwidth=1M", workers=2, lease="5s")
    site.post(cid, 5000)
    wait_until(lambda: (answer(site, "status")["moves"] or [{}])[0].get("done_bytes", 0) > 0, what="progress")
    return worker


def test_status_of_a_running_move(two_fs):
    two_fs.sample()
    worker = slow_move(two_fs)
    s = answer(two_fs, "status")
    assert (s["redis"], s["db"], s["alive"]) == ("ok", "ok", 2)
    assert {w["worker_id"].split(".")[1] for w in s["workers"]} == {str(p) for p in worker.children()}
    gold, silver, bronze = s["levels"]
    assert [gold["level"], silver["level"], bronze["level"]] == ["gold", "silver", "bronze"]
    assert [gold["files"], silver["files"], bronze["files"]] == [2, 2, 5]
    vfs = os.statvfs(two_fs.paths["gold"])
    assert abs(gold["used_bytes"] + gold["free_bytes"] - vfs.f_blocks * vfs.f_frsize) < vfs.f_blocks * vfs.f_frsize / 5
    move, = s["moves"]
    assert (move["cid"], move["filename"], move["from"], move["to"]) == ("50", "dir/big file.bin", "bronze", "gold")
    assert 0 < move["done_bytes"] < move["total_bytes"] == 8 * 2**20
    assert move["bytes_per_s"] > 0 and move["left_ms"] > 0
    assert s["jobs"]["moving"] == 1 and s["jobs"]["ready"] == 0

    text = tierd(two_fs, "status").stdout
    assert re.search(r"redis ok +database ok +2 workers alive on \S+", text)
    assert re.search(r"gold +2 +2000 +\[[#.]{10}\] +\d+% +[\d.]+ \wiB ", text)
    assert re.search(r"bronze to gold +\[[#.]{20}\] +\d+% +[\d.]+ \S+ of 8.0 MiB +\S+ \S+/s", text)
    assert "\033" not in text
    assert all(len(line) <= 80 or "/" in line for line in text.splitlines())

    e = answer(two_fs, "explain", "50")
    assert e["state"] == "claimed" and e["progress"]["total_bytes"] == 8 * 2**20
    assert re.fullmatch(r"\S+\.\d+\.[0-9a-f]{8} moves it from bronze to gold", e["now"])
    two_fs.wait_moved(50, "dir/big file.bin", "gold")
    wait_until(lambda: answer(two_fs, "status")["jobs"]["moving"] == 0, what="no move is left")
    s = answer(two_fs, "status")
    assert s["totals"]["moves"] == 1 and s["totals"]["bytes"] == 8 * 2**20 and s["totals"]["took_ms"] > 3000
    assert sum(s["rates"]["bytes"]) == 8 * 2**20 and sum(s["rates"]["moves"]) == 1
    assert s["events"][0]["what"] == "moved" and s["events"][0]["cid"] == "50"
    assert re.search(r"\n  events      \d\d:\d\d:\d\d  moved bronze to gold in \d+ s\n$", tierd(two_fs, "explain", "50").stdout)
    worker.stop()
    assert answer(two_fs, "status")["alive"] == 0


def test_a_dead_worker_is_not_shown_moving(two_fs):
    """Its move is taken up by another; there is one move, and it is that one's."""
    worker = slow_move(two_fs, mib=12)
    move, = answer(two_fs, "status")["moves"]
    old = int(move["worker_id"].split(".")[1])
    assert old in worker.children()
    os.kill(old, signal.SIGKILL)

    def taken_up():
        moves = answer(two_fs, "status")["moves"]
        return moves and moves[0]["worker_id"] != move["worker_id"] and moves[0]["done_bytes"] > 0
    wait_until(taken_up, 30, what="another worker has it")
    assert len(answer(two_fs, "status")["moves"]) == 1
    assert answer(two_fs, "explain", "50")["crashes"] == 1


def test_cancel_stops_a_move(two_fs):
    slow_move(two_fs)
    assert answer(two_fs, "cancel", "50")["done"] is True
    wait_until(lambda: answer(two_fs, "status")["jobs"]["moving"] == 0, what="the worker stops")
    wait_until(lambda: two_fs.redis.cli("EXISTS", "tierd:job:50") == "0", what="the job is finished")
    assert two_fs.level(50) == "bronze" and two_fs.places("dir/big file.bin") == ["bronze"]
    assert two_fs.job(50)["status"] == "done" and two_fs.job(50)["target"] == "bronze"
    assert two_fs.leftovers() == []


@pytest.mark.both_nets
def test_pause_explain_resume(site):
    site.sample()
    site.both()
    assert "silver: paused" in tierd(site, "pause", "silver").stdout
    assert answer(site, "post", "7", "1964")["status"] == "update"
    wait_until(lambda: answer(site, "status")["jobs"]["paused"] == 1, what="it is parked")
    e = answer(site, "explain", "7")
    assert e["gate"] == "silver" and "the level silver is paused" in e["now"]
    assert [g["gate"] for g in answer(site, "status")["paused"]] == ["silver"]
    assert tierd(site, "post", "4", "2500").returncode == 0
    site.wait_moved(4, "d.mp4", "gold")  # other levels go on
    assert site.level(7) == "bronze"
    assert answer(site, "resume", "gold") == {"gate": "gold", "now": "open"}
    assert answer(site, "resume") == {"gate": "silver", "now": "resumed", "jobs": 1}
    site.wait_moved(7, "g.mp4", "silver")
    tierd(site, "pause", "--all")
    site.post(7, 0)
    wait_until(lambda: answer(site, "explain", "7")["gate"] == "@all", what="it is parked")
    assert answer(site, "cancel", "7")["done"] is True
    assert tierd(site, "resume", "--all").returncode == 0
    wait_until(lambda: answer(site, "explain", "7")["state"] == "", what="nothing is left of it")
    assert site.level(7) == "silver"
    assert tierd(site, "resume").stdout == "nothing is paused\n"


def test_pause_and_resume_for_programs(site):
    """The gates are called as in status --json, and each command says something."""
    site.sample()
    site.start_api()
    assert answer(site, "pause", "gold", "silver") == [{"gate": "gold", "now": "paused"}, {"gate": "silver", "now": "paused"}]
    assert answer(site, "pause", "--all") == {"gate": "@all", "now": "paused"}
    gates = [g["gate"] for g in answer(site, "status")["paused"]]
    assert sorted(gates) == ["@all", "gold", "silver"]
    resumed = sorted(answer(site, "resume"), key=lambda said: said["gate"])
    assert resumed == [{"gate": gate, "now": "resumed", "jobs": 0} for gate in sorted(gates)]
    assert answer(site, "resume") == {"gate": "@all", "now": "open"}
    assert answer(site, "resume", "gold") == {"gate": "gold", "now": "open"}
    assert tierd(site, "pause", "--all").stdout == "all levels: paused; moves under way go on\n"
    assert tierd(site, "resume").stdout == "all levels: resumed, 0 jobs waited\n"
    assert tierd(site, "resume", "gold").stdout == "gold: was not paused\n"


@pytest.mark.parametrize("words", [(), ("silver",)])
def test_resume_of_a_level_that_is_gone(site, words):
    """Nothing stays parked behind a name that the table does not have any more."""
    site.sample()
    site.both()
    tierd(site, "pause", "silver")
    site.post(7, 1964)
    wait_until(lambda: answer(site, "status")["jobs"]["paused"] == 1, what="it is parked")
    site.db.sql("UPDATE contents SET content_level = 'gold' WHERE content_level = 'silver';"
                "DELETE FROM level WHERE level = 'silver'")
    assert tierd(site, "resume", "copper").returncode == 64
    assert answer(site, "resume", *words) == {"gate": "silver", "now": "resumed", "jobs": 1}
    assert site.redis.cli("EXISTS", "tierd:paused", "tierd:parked:silver") == "0"
    assert answer(site, "explain", "7")["gate"] == ""


def test_what_holds_jobs_back_is_said_in_words(site):
    site.sample()
    site.start_api()
    gates = {"@all": ("0", "all moves are paused until they are resumed"), "silver": ("0", "silver is paused until it is resumed"),
             "gold": ("99999999999999", "gold is paused"), "@window": ("99999999999999", "outside the window"),
             "@busy:gold": ("99999999999999", "as many moves into gold as level-jobs allows")}
    for gate, (until, _) in gates.items():
        site.redis.cli("HSET", "tierd:paused", gate, until)
    site.redis.cli("SADD", "tierd:routes", "@route\nbronze\ngold\n")
    site.redis.cli("ZADD", "tierd:parked:@all", "1", "7")
    said = {g["gate"]: g["text"] for g in answer(site, "status")["paused"]}
    assert said == {**{g: text for g, (_, text) in gates.items()}, "@route\nbronze\ngold\n": "no worker reaches bronze and gold"}
    text = tierd(site, "status").stdout
    assert "HELD    1 job: all moves are paused until they are resumed\n" in text
    assert re.search(r"HELD    0 jobs: gold is paused, \d+ d left\n", text)
    assert "HELD    0 jobs: no worker reaches bronze and gold\n" in text
    assert {r["gate"] for r in answer(site, "resume")} == {"@all", "silver", "gold"}


def whats(site, cid):
    """What happened to a content, the last first, as it is explained."""
    return [e["what"] for e in answer(site, "explain", str(cid))["events"]]


def test_events_of_a_content_outlive_those_of_others(site):
    site.sample()
    (site.paths["bronze"] / "d.mp4").unlink()
    site.both()
    site.post(4, 5000)
    wait_until(lambda: whats(site, 4) == ["dead"], what="dead")
    (site.paths["bronze"] / "d.mp4").write_bytes(b"there")
    answer(site, "retry", "4")
    wait_until(lambda: whats(site, 4) == ["moved", "retry", "dead"], what="moved")
    answer(site, "pause", "bronze")
    site.post(4, 0)
    answer(site, "cancel", "4")
    events = answer(site, "explain", "4")["events"]
    assert [e["what"] for e in events] == ["cancel", "moved", "retry", "dead"]
    assert [e["words"] for e in events] == ["cancelled by an operator", "moved", "started anew by an operator", "dead"]
    seconds, micros = map(int, site.redis.cli("TIME").split())
    assert all(-60_000 < e["time_ms"] - seconds * 1000 - micros // 1000 <= 0 and e["cid"] == "4" for e in events)
    assert events[1]["from"] == "bronze" and events[1]["to"] == "gold" and int(events[1]["ms"]) < 60_000
    assert "source file does not exist" in events[3]["error"]
    site.redis.cli("EVAL", "for i = 1, 1200 do redis.call('XADD', 'tierd:events', '*', 'cid', '7', 'what', 'moved') end", "0")
    assert answer(site, "explain", "4")["events"] == events
    assert json.loads(site.request("GET", "/jobs/4").body)["events"] == events
    text = tierd(site, "explain", "4").stdout
    assert re.search(r"\n  events      \S+  cancelled by an operator\n {14}\S+  moved bronze to gold in \d+ ms\n"
                     r" {14}\S+  started anew by an operator\n {14}\S+  dead: ", text)
    assert tierd(site, "explain", "7").stdout.endswith("\n  events      none within 7 days\n")
    week_ms = 7 * 24 * 3600 * 1000
    assert week_ms - 60_000 < int(site.redis.cli("PTTL", "tierd:log:4")) <= week_ms


def test_events_of_a_content_are_few(site):
    site.sample()
    site.start_api()
    for count in range(13):
        site.post(4, 5000 + count)
        assert answer(site, "cancel", "4")["done"] is True
        assert whats(site, 4) == ["cancel"] * min(count + 1, 10)
    assert site.redis.cli("LLEN", "tierd:log:4") == "10"


def test_a_foreign_key_for_events_is_in_nobodys_way(site):
    site.sample()
    site.both()
    site.redis.cli("SET", "tierd:log:4", "x")
    site.redis.cli("LPUSH", "tierd:log:7", "y")
    for cid, name in ((4, "d.mp4"), (7, "g.mp4")):
        site.post(cid, 5000)
        site.wait_moved(cid, name, "gold")
    wait_until(lambda: {e["cid"] for e in answer(site, "status")["events"]} == {"4", "7"}, what="both are among all events")
    assert whats(site, 4) == [] and site.redis.cli("GET", "tierd:log:4") == "x" and site.redis.cli("PTTL", "tierd:log:4") == "-1"
    assert whats(site, 7) == ["moved", "y"]


def test_events_of_another_day_have_their_date(site):
    site.redis.cli("XADD", "tierd:errors", "1000000000000-0", "cid", "7", "what", "dead", "error", "long ago")
    assert re.search(r"  2001-09-0[89] \d\d:\d\d:\d\d  7 dead: long ago\n", tierd(site, "status").stdout)


def test_retry_leaves_a_waiting_json_of_another_program_as_it_is(site):
    """Its members may stand in another order: what follows "worker_id" is not ours to cut off."""
    site.sample()
    site.start_api()
    text = json.dumps({"cid": "4", "worker_id": None, "status": "update", "count": "2500", "target": "gold",
                       "db_level": "bronze", "filename": "d.mp4"})
    site.redis.cli("SET", "4", text)
    answer(site, "retry", "4")
    assert site.redis.cli("GET", "4") == text and site.redis.cli("ZSCORE", "tierd:due", "4")
    site.start_worker()
    site.wait_moved(4, "d.mp4", "gold")


def test_retry(site):
    site.sample()
    for name in ("d.mp4", "g.mp4"):
        (site.paths["bronze"] / name).rename(site.folder / name)
    (site.paths["gold"] / "h.mp4").write_bytes(b"in the way")
    site.both()
    for cid in (4, 7, 8):
        site.post(cid, 5000)
    wait_until(lambda: answer(site, "status")["jobs"]["dead"] == 2 and answer(site, "status")["jobs"]["conflict"] == 1,
               what="dead and in conflict")
    s = answer(site, "status")
    assert {e["cid"] for e in s["errors"]} == {"4", "7", "8"}
    e = answer(site, "explain", "4")
    assert "source file does not exist" in e["now"] and e["job"]["status"] == "dead"
    for name in ("d.mp4", "g.mp4"):
        (site.folder / name).rename(site.paths["bronze"] / name)
    (site.paths["gold"] / "h.mp4").unlink()
    assert answer(site, "retry", "--all-dead") == {"retried": 2, "left": 0}
    assert answer(site, "retry", "8")["done"] is True
    for cid, name in ((4, "d.mp4"), (7, "g.mp4"), (8, "h.mp4")):
        site.wait_moved(cid, name, "gold")
    s = answer(site, "status")
    assert s["jobs"]["dead"] == s["jobs"]["conflict"] == 0
    assert answer(site, "retry", "8", status=1)["done"] is False


def test_a_post_mends_what_was_dead(site):
    site.add(1, "a.mp4", "bronze")
    site.both()
    site.post(1, 5000)
    wait_until(lambda: answer(site, "status")["jobs"]["dead"] == 1, what="dead")
    (site.paths["bronze"] / "a.mp4").write_bytes(b"there")
    site.post(1, 5000)
    site.wait_moved(1, "a.mp4", "gold")
    assert answer(site, "status")["jobs"]["dead"] == 0


def test_posts_that_are_refused_for_one_cause(site):
    """Once, and how often it came again; what names a content, or a line, is said each time."""
    site.sample()
    site.start_api()
    site.redis.cli("SET", "tierd:due", "somebody else's")
    result = tierd(site, "post", "-", stdin="".join(f"{1 + i % 8} 5000\n" for i in range(91)) + "x\ny\n")
    lines = result.stderr.splitlines()
    assert len(lines) <= 6, lines  # in redis' words at first, then in ours
    said = sum("tierd: redis" in line for line in lines)
    again = re.findall(r"tierd: (\d+) more times: redis refuses", result.stderr)
    assert said >= 1 and said + sum(map(int, again)) == 91, lines
    site.redis.cli("DEL", "tierd:due")
    wait_until(lambda: site.request("GET", "/health").status == 200, what="it is mended")
    result = tierd(site, "post", "-", stdin="101 1\n102 1\n")
    assert [cid in result.stderr for cid in ("101", "102")] == [True, True]


@pytest.mark.both_nets
def test_post_lines(site):
    site.sample()
    rows = ", ".join(f"({cid}, 'bronze', '{cid}.bin')" for cid in range(100, 400))
    site.db.sql(f"INSERT INTO contents (cid, content_level, filename) VALUES {rows}")
    site.start_api()
    lines = "".join(f"{cid} {cid}\n" for cid in range(100, 400)) + "7\t1964\r\n\n  4   2500"
    s = answer(site, "post", "-", stdin=lines)
    assert (s["posted"], s["move"], s["stay"], s["refused"]) == (302, 2, 300, 0)
    assert site.job(7)["target"] == "silver" and site.job(4)["target"] == "gold" and site.job(399)["count"] == "399"
    bad = tierd(site, "post", "-", stdin="1 2\nx 3\n4\n5 6 7\n1 -2\n99999 1\n" + "9" * 70000)
    assert bad.returncode == 1 and "1 posted" in bad.stdout
    for said in ("line 2:", "line 3:", "line 4:", "line 5:", "cid 99999 does not exist", "too long"):
        assert said in bad.stderr, said
    assert tierd(site, "post", "-", stdin="x\n").stdout == "0 posted: 0 move, 0 stay, 1 refused\n"


def test_the_last_count_of_a_content_stands(site):
    """However many connections the lines are spread over, those of one content keep their order."""
    site.sample()
    site.start_api()
    counts = [(1 + i % 8, i) for i in range(5000)]
    s = answer(site, "post", "-", stdin="".join(f"{cid} {count}\n" for cid, count in counts))
    assert (s["posted"], s["refused"]) == (5000, 0)
    assert {cid: int(site.job(cid)["count"]) for cid in range(1, 9)} == dict(counts)


class Posts(socketserver.ThreadingTCPServer):
    """An API that only takes posts: the forms of each connection. After `lose` answers in all it ends a connection, once."""
    daemon_threads = allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, lose=None):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.lose, self.lock, self.connections = lose, threading.Lock(), []
        self.api = SimpleNamespace(address=f"127.0.0.1:{self.server_address[1]}")
        self.api_url = f"http://{self.api.address}"
        self.common = list
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answered(self):
        return [form for forms in self.connections for form in forms]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            self.forms = []
            self.server.connections.append(self.forms)

        def do_POST(self):
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with self.server.lock:
                if self.server.lose is not None and len(self.server.answered()) >= self.server.lose:
                    self.server.lose, self.close_connection = None, True
                    return
                self.forms.append(form)
            body = b'{"status": "done", "db_level": "a", "target": "a"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass


@pytest.fixture
def posts():
    with contextlib.ExitStack() as stack:
        def start(**kwargs):
            server = stack.enter_context(Posts(**kwargs))
            stack.callback(server.shutdown)
            return server
        yield start


@pytest.mark.parametrize("lines", [1, 3, 1000])
def test_posts_take_several_connections_but_no_more_than_lines(posts, lines):
    server = posts()
    assert answer(server, "post", "-", stdin="".join(f"{16 * i + 16} 5\n" for i in range(lines)))["posted"] == lines
    assert sorted(server.answered()) == sorted(f"cid={16 * i + 16}&count=5" for i in range(lines))
    assert len(server.connections) <= lines
    assert lines < 1000 or 8 <= len(server.connections) <= 16


def test_a_connection_lost_among_posts(posts):
    """What it left unanswered is posted again over a new one, in order; every line is answered once."""
    server = posts(lose=500)
    lines = [f"cid={1 + i % 40}&count={i}" for i in range(2000)]
    s = answer(server, "post", "-", stdin="".join(re.sub(r"cid=(\d+)&count=", r"\1 ", line) + "\n" for line in lines))
    assert (s["posted"], s["refused"]) == (2000, 0)
    assert server.lose is None
    assert sorted(server.answered()) == sorted(lines)
    for cid in range(1, 41):
        counts = [int(form.split("=")[2]) for form in server.answered() if form.startswith(f"cid={cid}&")]
        assert counts == sorted(counts)


def test_connections_refused_among_posts(posts):
    """The API ends between two lines: said once, those before are counted."""
    server = posts()
    command = [TIERD, "post", "-", f"--api=http://{server.api.address}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        p.stdin.write("1 5\n")
        p.stdin.flush()
        wait_until(lambda: len(server.answered()) == 1, what="the first is posted")
        server.shutdown()
        server.server_close()
        # further cids need connections that nobody takes
        out, err = p.communicate("".join(f"{cid} 5\n" for cid in range(2, 1000)), timeout=60)
    assert p.returncode == 69
    assert err.count("is away") == 1 and "refused" in err
    assert re.match(r"[1-9]\d* posted", out)


def test_the_bar_of_posts_is_of_what_is_posted(site):
    site.sample()
    site.db.sql("INSERT INTO contents (cid, content_level, filename) SELECT seq, 'bronze', seq FROM seq_1000_to_5999")
    site.start_api()
    (site.folder / "counts").write_text("".join(f"{cid} 5\n" for cid in range(1000, 6000)))
    parent, child = pty.openpty()
    try:
        with (site.folder / "counts").open() as counts:
            subprocess.run([TIERD, "post", "-", *site.common(), f"--api=http://{site.api.address}"], stdin=counts, stderr=child,
                           stdout=subprocess.DEVNULL, check=True, timeout=60)
        shown = os.read(parent, 65536).decode()
    finally:
        os.close(parent)
        os.close(child)
    states = re.findall(r"\] +(\d+)%  (\d+) posted, \d+ a second", shown)
    assert states
    assert all(abs(int(share) - int(posted) / 50) <= 1 for share, posted in states), states


def test_post_says_of_one_what_becomes_of_it(site):
    site.sample()
    site.start_api()
    assert tierd(site, "post", "4", "5").stdout == "4  d.mp4  stays in bronze\n"
    assert tierd(site, "post", "4", "5", "--dry-run").stdout == "4  d.mp4  5 belongs in bronze, where it is\n"
    assert tierd(site, "post", "4", "2500").stdout == "4  d.mp4  bronze to gold: it is queued\n"
    assert tierd(site, "retry", "7").stdout == "7 has nothing to be tried again\n"
    assert tierd(site, "cancel", "7").stdout == "7 has nothing to be cancelled\n"


def test_dry_run_changes_nothing(site):
    site.sample()
    site.start_api()
    before = site.redis.cli("KEYS", "*")
    one = tierd(site, "post", "7", "1964", "--dry-run")
    assert one.returncode == 0 and one.stdout.startswith("7  g.mp4  bronze to silver")
    lines = tierd(site, "post", "-", "--dry-run", "--json", stdin="7 1964\n1 2500\n55 1\n").stdout.splitlines()
    decision, s = map(json.loads, lines)
    assert (decision["cid"], decision["from"], decision["to"], decision["rule"]) == ("7", "bronze", "silver", "ladder")
    assert decision["filename"] == "g.mp4" and "1964 belongs in silver" in decision["why"]
    assert (s["move"], s["stay"], s["refused"], s["dry_run"]) == (1, 1, 1, True)
    assert site.redis.cli("KEYS", "*") == before


@pytest.mark.both_nets
def test_what_is_away(site):
    site.start_api()
    away = subprocess.run([TIERD, "status", "--json", "--redis=unix:///none", site.common()[1]], capture_output=True,
                          text=True, check=False)
    s = json.loads(away.stdout)
    assert away.returncode == 69 and (s["redis"], s["db"]) == ("down", "ok") and len(s["levels"]) == 3
    text = subprocess.run([TIERD, "status", "--redis=unix:///none", "--db=mysql://nobody@127.0.0.1:1/t"], capture_output=True,
                          text=True, check=False).stdout
    assert text.startswith("redis away (No such file or directory)   database away (Connection refused)")
    away = subprocess.run([TIERD, "post", "1", "2", "--api=http://127.0.0.1:1"], capture_output=True, text=True,
                          check=False)
    assert away.returncode == 69 and "127.0.0.1:1" in away.stderr


@pytest.mark.parametrize("words", [["explain"], ["explain", "0"], ["explain", "1x"], ["post", "1"], ["post", "a", "1"],
                                   ["retry"], ["retry", "1", "--all-dead"], ["cancel", "-"], ["pause"],
                                   ["pause", "copper"], ["pause", "gold", "--all"], ["status", "now"], ["nonsense"],
                                   ["status", "--dry-run"], ["post", "-", "1"]])
def test_wrong_words(site, words):
    result = tierd(site, *words)
    assert result.returncode == 64 and result.stderr.startswith("tierd: ") and result.stdout == ""


@pytest.mark.parametrize("words, named, allowed", [
    (["pause", "copper"], "'copper'", "gold, silver, bronze"), (["explain", "x"], "'x'", "from 1 to 18446744073709551615"),
    (["post", "1", "-1"], "'-1'", "from 0 to 9223372036854775807"), (["post", "0", "1"], "'0'", "from 1 to 18446744073709551615")])
def test_refusals_name_the_word_and_what_is_allowed(site, words, named, allowed):
    result = tierd(site, *words)
    assert result.returncode == 64 and named in result.stderr and allowed in result.stderr


def test_bad_lines_are_named(site):
    site.sample()
    site.start_api()
    result = tierd(site, "post", "-", stdin="1 2\nx 1\n1 9223372036854775808\n1\n1 \033[2J\n")
    two, three, four, five = result.stderr.splitlines()
    assert "line 2: 'x' is not a cid" in two and "line 3: '9223372036854775808' is not a count" in three
    assert "line 4: it is not 'cid count'" in four and "line 5: '\\" in five and "\033" not in result.stderr


def test_colours_only_on_a_terminal(site):
    def on_terminal(**env):
        parent, child = pty.openpty()
        try:
            subprocess.run([TIERD, "status", *site.common()], stdout=child, stderr=subprocess.DEVNULL, check=True,
                           env={**os.environ, "TERM": "xterm", **env})
            return os.read(parent, 65536).decode()
        finally:
            os.close(parent)
            os.close(child)
    assert "\033[1m" in on_terminal()
    assert "\033" not in on_terminal(NO_COLOR="1")
    assert max(map(len, on_terminal(NO_COLOR="1").splitlines())) <= 80


def test_names_cannot_drive_the_terminal(site):
    site.add(1, "a\u009b31mred.mp4", "bronze", b"x")
    site.add(2, "b\x1b]0;title\x07.mp4", "bronze", b"x")
    site.start_api()
    for cid in (1, 2):
        site.post(cid, 5000)
        text = tierd(site, "explain", str(cid)).stdout
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
        assert json.loads(site.request("GET", f"/jobs/{cid}").body)["cid"] == str(cid)


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_watch_fits_the_terminal(site, no_colour):
    """A small one: the head of the picture stays on it, whatever moves."""
    now = int(time.time() * 1000)
    for cid in range(100, 130):
        site.redis.cli("HSET", "tierd:progress", str(cid), f"1 10 5 {now} {now + 60000} h.1.a")
        site.redis.cli("HSET", f"tierd:job:{cid}", "src", "bronze", "target", "gold", "filename", f"{cid}-{'x' * 90}")
        site.redis.cli("XADD", "tierd:errors", "*", "cid", str(cid), "what", "dead", "error", "why")
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen([TIERD, "status", "--watch", *site.common()], stdout=child,
                               env={**os.environ, "TERM": "xterm", "NO_COLOR": no_colour})
    os.close(child)
    begin, end, out = "\033[?7l\033[H\033[J", "\033[?7h", ""
    while out.count(end) < 2:
        out += os.read(parent, 65536).decode()
    process.terminate()
    process.wait(10)
    os.close(parent)
    assert out.startswith(begin) and out.count(begin) >= 2
    frame = out.split(end)[1].removeprefix(begin)
    assert frame.count("\n") <= 23 and "redis " in frame and "gold" in frame and "MOVES UNDER WAY" in frame
    shown = frame.count("bronze to gold")
    assert shown >= 4 and f"and {30 - shown} more" in frame


def test_watch_ends_at_once(site):
    process = subprocess.Popen([TIERD, "status", "--watch", "--json", *site.common()], stdout=subprocess.PIPE, text=True)
    for _ in range(2):
        assert json.loads(process.stdout.readline())["redis"] == "ok"
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


def test_routes(site):
    site.sample()
    site.start_api("--api-workers=2")
    for path, status, kind in (("/status", 200, "application/json"), ("/jobs/7", 200, "application/json"),
                               ("/jobs/99", 404, "application/json"), ("/jobs/x", 400, "application/json"),
                               ("/jobs/", 404, "application/json"), ("/jobs", 404, "application/json"),
                               ("/jobs/7/8", 404, "application/json"), ("/", 200, "text/html; charset=utf-8"),
                               ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8")):
        got = site.request("GET", path)
        assert (got.status, got.headers["Content-Type"]) == (status, kind), path
        if kind == "application/json":
            json.loads(got.body)
        head = site.request("HEAD", path)
        assert head.status == status and head.body == ""
    assert site.request("POST", "/status", "").status == 405
    policy = site.request("GET", "/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert json.loads(site.request("GET", "/jobs/7").body) == answer(site, "explain", "7")


def metrics(site):
    text = site.request("GET", "/metrics").body
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")), text


def test_metrics(two_fs):
    two_fs.sample()
    two_fs.start_api("--api-workers=2")
    two_fs.start_worker()
    for _ in range(20):
        assert two_fs.post(7, 1964).status == 200
    assert two_fs.post(99, 1).status == 404 and two_fs.post(4, 2500).status == 200
    two_fs.wait_moved(7, "g.mp4", "silver")
    two_fs.wait_moved(4, "d.mp4", "gold")
    wait_until(lambda: metrics(two_fs)[0].get("tierd_moves_total") == "2", what="both are counted")
    m, text = metrics(two_fs)
    # whichever process is asked, it answers for both
    assert m['tierd_posts_total{result="accepted"}'] == "21" and m['tierd_posts_total{result="refused"}'] == "1"
    assert int(m['tierd_decisions_total{rule="promote"}']) >= 2
    assert int(m["tierd_lookup_batch_size_count"]) >= 3
    assert m["tierd_move_duration_seconds_count"] == "2" and float(m["tierd_move_duration_seconds_sum"]) > 0
    assert m["tierd_copied_bytes_total"] == str(len(b"content 4") * 100)  # the other one was a link
    assert m['tierd_jobs{state="dead"}'] == "0" and m["tierd_workers"] == "2"
    if shutil.which("promtool"):
        check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert check.returncode == 0 and check.stdout + check.stderr == ""
    else:
        names = {re.match(r"[a-z_]+", line).group() for line in text.splitlines() if line and line[0] != "#"}
        assert all(re.fullmatch(r"tierd_[a-z_]+", n) for n in names)


def reconnects(site):
    m, _ = metrics(site)
    return {(role, server): int(m.get(f'tierd_reconnects_total{{role="{role}",server="{server}"}}', -1))
            for role in ("api", "worker") for server in ("redis", "db")}


@pytest.mark.both_nets
def test_reconnects_are_counted(own_site):
    """Of the API and of workers; a start and an end count nothing."""
    site = own_site
    site.sample()
    worker = site.both()
    wait_until(lambda: metrics(site)[0].get("tierd_workers") == "2", what="both workers stand")
    assert worker.stop() == 0
    worker = site.start_worker()
    wait_until(lambda: metrics(site)[0].get("tierd_workers") == "2", what="two others stand")
    assert set(reconnects(site).values()) == {0}
    site.redis.stop()
    site.redis.start()
    wait_until(lambda: reconnects(site) == {("api", "redis"): 1, ("api", "db"): 0, ("worker", "redis"): 2, ("worker", "db"): 0},
               what="three connections to Redis are made again")
    site.db.stop()
    site.db.start()
    wait_until(lambda: site.post(7, 1964).status == 200, what="the API is connected")
    site.wait_moved(7, "g.mp4", "silver")
    wait_until(lambda: reconnects(site)["worker", "db"] > 0 and reconnects(site)["api", "db"] == 5, what="those to the database")
    assert worker.count("a child died") == 0
