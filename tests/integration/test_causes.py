"""One cause, one line for each process, then a count; commits that wait ask once for all."""
import json
import os
import re
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer

from conftest import wait_until
from test_commits import contents

WORKERS = 2


def test_a_thousand_contents_with_one_cause_are_one_line(site):
    cids = range(1, 301)
    site.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
                + ", ".join(f"({cid}, 'bronze', '{cid}.bin')" for cid in cids))
    for cid in cids:
        (site.paths["bronze"] / f"{cid}.bin").write_bytes(b"x")
        os.link(site.paths["bronze"] / f"{cid}.bin", site.folder / f"other-{cid}")
    worker = site.both(workers=WORKERS)
    for cid in cids:
        assert site.post(cid, 1500).status == 200
    waits = "redis.call('HGET', 'tierd:job:' .. i, 'waits')"
    wait_until(lambda: site.redis.cli("EVAL", f"for i = 1, 300 do if not {waits} then return i end end return 0", "0") == "0",
               what="each was put off")
    worker.wait_line(r"this came again.*times=[0-9]+ .*put off: the file has further hard links", 30)
    assert 1 <= worker.count("is put off") <= WORKERS
    line = worker.wait_line("is put off")
    assert re.search(r'msg="\d+.bin is put off" .*cid=\d+ error="the file has further hard links', line)
    (site.paths["bronze"] / "400.bin").symlink_to("nowhere")  # another cause is said at once
    site.add(400, "400.bin", "bronze")
    assert site.post(400, 1500).status == 200
    worker.wait_line("400.bin")


def test_what_the_contract_promises_is_said_each_time(site):
    for cid in range(1, 41):
        site.add(cid, f"{cid}.mp4", "bronze", b"x" if cid <= 20 else None)
    worker = site.both(workers=WORKERS)
    for cid in range(1, 41):
        assert site.post(cid, 1500).status == 200
    for cid in range(1, 21):
        worker.wait_line(f"{cid}.mp4 moves bronze to silver")
        worker.wait_line(f"{cid + 20}.mp4 not exists")


class Refuses(UnixStreamServer):
    """An API that takes no commit, and counts who asks."""
    request_queue_size = 64

    def __init__(self, path):
        self.asked = 0
        super().__init__(str(path), self.handler())
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                body = json.dumps({"error": "the database is away"}).encode()
                self.send_response(503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        return Handler

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


def test_commits_that_wait_ask_once_for_all(site, tmp_path):
    cids = list(range(1, 201))
    contents(site, cids)
    path = tmp_path / "api.sock"
    site.start_api()  # for the scripts; the workers ask another
    api = Refuses(path)
    try:
        roots = [f"--root={r}" for r in site.roots]
        worker = site.start("--role=worker", f"--api=http+unix://{path}", f"--workers={WORKERS}", *roots, *site.common())
        subprocess.run(["redis-cli", "-s", site.redis.socket, "-n", "1"], check=True, capture_output=True, text=True,
                       input="".join(f"ZADD tierd:due 1 {cid}\n" for cid in cids) + "LPUSH tierd:wake 1\n")
        worker.wait_line("the commit waits.*the database is away")
        time.sleep(10)  # what is asked meanwhile is what this is about
        asked = api.asked
    finally:
        api.close()
    # each process a whole group at first, then one for all: after 0.25, 0.5, 1, 2, 4 s
    assert asked <= WORKERS * (16 + 8), asked
    assert 1 <= worker.count("the commit waits\"") <= WORKERS
    path.unlink()
    began = time.monotonic()
    site.start("--role=api", f"--listen=unix:{path}", *site.common())
    wait_until(lambda: site.db.sql("SELECT COUNT(*) FROM contents WHERE content_level = 'gold'") == [["200"]], 30,
               "all are committed")
    assert time.monotonic() - began < 15
