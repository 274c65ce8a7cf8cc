"""The recipe of init/doc/nginx.md with a real nginx: no reader misses a file that moves, views become counts."""
import hashlib
import subprocess
import threading

import pytest
from conftest import wait_until
from harness.servers import ROOT, TIERD, die_with_parent, stop_process

EXAMPLES = ROOT / "init" / "examples"
FRAME = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    {example}
}}
"""


class Nginx:
    def __init__(self, folder, levels):
        self.folder, self.socket = folder, folder / "nginx.sock"
        folder.mkdir()
        self.log = folder / "tierd.log"
        example = (EXAMPLES / "nginx.conf").read_text().replace("listen 80;", f"listen unix:{self.socket};")
        example = example.replace("/srv/tierd;", f"{levels};").replace("/var/log/nginx/tierd.log", str(self.log))
        (folder / "nginx.conf").write_text(FRAME.format(folder=folder, example=example))
        self.process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"], stdin=subprocess.DEVNULL,
                                        preexec_fn=die_with_parent())
        wait_until(self.socket.exists, what="nginx starts")

    def get(self, name, *args):
        out = subprocess.run(["curl", "-s", "-o", "-", "-w", "%{stderr}%{http_code}", "--unix-socket", self.socket, *args,
                              f"http://x/{name}"], capture_output=True, check=True)
        return int(out.stderr), out.stdout

    def close(self):
        stop_process(self.process)


@pytest.fixture
def nginx(site, tmp_path):
    server = Nginx(tmp_path / "nginx", site.folder)
    yield server
    server.close()


def test_a_file_is_read_while_it_moves(site, nginx):
    data = bytes(range(256)) * 256
    site.add(1, "2018/film.mp4", "bronze", data)
    site.start_api()
    site.start_worker("--retire-delay=200ms")
    want, seen, stop = hashlib.sha256(data).hexdigest(), [], threading.Event()

    def read():
        while not stop.is_set():
            status, body = nginx.get("2018/film.mp4")
            seen.append((status, hashlib.sha256(body).hexdigest()))
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for count, level in ((2500, "gold"), (0, "bronze"), (1500, "silver"), (0, "bronze"), (2500, "gold")):
            assert site.post(1, count).status == 200
            site.wait_moved(1, "2018/film.mp4", level)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert len(seen) > 10 and set(seen) == {(200, want)}
    (site.folder / "gold" / ".tierd-level").write_text("private")
    assert nginx.get(".tierd-level")[0] == 404 and nginx.get("none.mp4")[0] == 404


def test_views_become_counts(site, nginx, tmp_path):
    site.sample()
    for _ in range(3):
        assert nginx.get("g.mp4")[0] == 200
    assert nginx.get("a.mp4", "-r", "0-9")[0] == 206
    assert nginx.get("a.mp4", "-r", "10-19")[0] == 206  # a further part is no further view
    assert nginx.get("none.mp4")[0] == 404
    wait_until(lambda: nginx.log.read_text().count("\n") == 6, what="the log is written")
    posted = tmp_path / "posted"
    sql = " ".join(map(str, [*site.db.command(), "-e"]))

    def run():
        post = tmp_path / "post"
        post.write_text(f"#!/bin/sh\nsort > {posted}\n")
        post.chmod(0o755)
        subprocess.run([EXAMPLES / "tierd-counts", nginx.log], check=True,
                       env={"PATH": "/usr/bin:/bin", "TIERD_TOTALS": tmp_path / "var" / "totals", "TIERD_SQL": sql,
                            "TIERD_POST": str(post)})
        return posted.read_text()
    assert run() == "1 1\n7 3\n"
    nginx.log.write_text("200\t-\t/g.mp4\n200\t-\t/b.mp4\n")
    assert run() == "2 1\n7 4\n"
    nginx.log.write_text("")
    posted.write_text("none")
    assert run() == "none"
    assert sorted((tmp_path / "var" / "totals").read_text().split("\n")) == ["", "1\t1", "2\t1", "7\t4"]

    # and with the command itself
    site.start_api()
    nginx.log.write_text("200\t\t/g.mp4\n" * 1996)
    subprocess.run([EXAMPLES / "tierd-counts", nginx.log], check=True,
                   env={"PATH": "/usr/bin:/bin", "TIERD_TOTALS": tmp_path / "var" / "totals", "TIERD_SQL": sql,
                        "TIERD_POST": f"{TIERD} post - --api=http://{site.api.address}"})
    assert (site.job(7)["count"], site.job(7)["target"]) == ("2000", "gold")
