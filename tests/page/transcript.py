"""`make transcript`: every command on a running system while a big, slow move is under way, into init/doc/transcript.md.

Real servers, real moves: gold is a tmpfs, so that the move is a copy, and a low bandwidth makes it last. Each command is
run by a shell on a terminal of 100 columns and shown with what it wrote; names of this machine are replaced (NAMES).
"""
import contextlib
import json
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import fcntl

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from conftest import Site, wait_until  # noqa: E402
from harness.servers import ROOT, TIERD, MariaDB, Redis  # noqa: E402

OUT = ROOT / "init" / "doc" / "transcript.md"
COLUMNS, ROWS = 100, 40
CLIPS = 3000  # small contents, for the access log
BIG, HELD, PAUSED, CLASH, LOST = 101, 102, 105, 103, 104
FILES = {BIG: ("films/2018/summer in the city.mp4", "bronze", 320 * 2**20), HELD: ("films/2019/north.mkv", "gold", 4 * 2**20),
         CLASH: ("talks/keynote-2026.webm", "bronze", 2**20), LOST: ("films/2017/lost reel.mp4", "bronze", 2**20),
         PAUSED: ("series/s01e05.mp4", "bronze", 2**20), 106: ("series/s01e06.mp4", "silver", 2**20),
         107: ("series/s01e07.mp4", "bronze", 2**20)}
HEAD = f"""# A transcript of every command

Made by `make transcript` (`tests/page/transcript.py`): a private Redis, MariaDB, API and worker, gold on another file system than
silver and bronze, and `bandwidth = 4M`, so that a move of 320 MiB is under way all the time. Every command was run on a terminal of
{COLUMNS} columns. The machine's own directories, sockets, user and host name are replaced by `/srv`, `/run`, `tierd` and `storage1`;
nothing else is changed. An exit status other than 0 is named below the output. `TIERD_CONFIG` names this file:"""


class Demo:
    """The system, and the text that grows."""

    def __init__(self, redis, db, folder, other):
        self.site = Site(redis, db, folder, other)
        self.config = pathlib.Path(folder) / "tierd.conf"
        self.names = [(str(self.site.paths["gold"].parent), "/srv"), (f"{folder}/api.sock", "/run/tierd/api.sock"),
                      (f"{folder}/tierd.conf", "/etc/tierd/tierd.conf"), (folder, "/srv"),
                      (str(redis.socket), "/run/redis/redis.sock"), (str(db.socket), "/run/mysqld/mysqld.sock"),
                      (f"{db.user}@", "tierd@"), (os.uname().nodename, "storage1")]
        self.text = [HEAD]

    def replace(self, text):
        for ours, shown in self.names:
            text = text.replace(ours, shown)
        return text

    def say(self, *paragraphs):
        self.text += ["", *paragraphs]

    def block(self, text):
        self.text += ["", "```", *(line.rstrip() for line in self.replace(text).splitlines()), "```"]

    def run(self, *lines):
        """Each line as it is typed, and what it wrote."""
        shown = []
        for line in lines:
            output, status = on_terminal(line, self.config, self.site.folder)
            shown += [f"$ {line}", *settled(output)]
            if status:
                shown.append(f"[exit status {status}]")
        self.block("\n".join(shown))

    def json(self, *words):
        result = subprocess.run([TIERD, *words, "--json", f"--config={self.config}"], capture_output=True, text=True, check=False)
        return json.loads(result.stdout)

    def done_bytes(self, cid):
        return sum(m["done_bytes"] for m in self.json("status")["moves"] if m["cid"] == str(cid))


def on_terminal(line, config, folder):
    """Output and exit status of a shell's line on a terminal without colours."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**os.environ, "NO_COLOR": "1", "TERM": "xterm", "TIERD_CONFIG": str(config), "PATH": f"{TIERD.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(["/bin/sh", "-c", line], stdin=child, stdout=child, stderr=child, env=env, cwd=folder,
                               start_new_session=True)
    os.close(child)
    output = b""
    with contextlib.suppress(OSError):  # EIO: the last writer closed it
        while chunk := os.read(parent, 65536):
            output += chunk
    os.close(parent)
    return re.sub(r"\033([78]|\[\?7[lh]|\[[0-9;]*H(\033\[[JK])?)", "", output.decode()), process.wait()


def settled(output):
    """The lines as they stand in the end; of a progress that was wiped away, one state from its middle."""
    lines = []
    for line in output.replace("\r\n", "\n").removesuffix("\n").split("\n") if output else []:
        states = [s for s in line.split("\r\033[K") if s]
        bars = [s for s in states[:-1] if s.startswith("[")]
        lines += [*bars[len(bars) // 2:][:1], states[-1] if states else ""]
    return lines


def write(demo, path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def fill(demo):
    site = demo.site
    for cid, (name, level, size) in FILES.items():
        site.add(cid, name, level, b"")
        write(demo, site.paths[level] / name, size)
    clips = [(1000 + i, f"clips/{1000 + i}.mp4") for i in range(CLIPS)]
    (site.paths["bronze"] / "clips").mkdir()
    for cid, name in clips:
        (site.paths["bronze"] / name).write_bytes(name.encode() * 30)
    site.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
                + ", ".join(f"({cid}, 'bronze', '{name}')" for cid, name in clips))
    (site.paths["bronze"] / FILES[LOST][0]).rename(site.folder / "lost reel.mp4")
    write(demo, site.paths["gold"] / FILES[CLASH][0], 5000)
    log = [f"{cid} {(cid * 7919) % 900}" for cid, _ in clips]
    log[40], log[2000] = "1040 1203", "2000 1850"
    (site.folder / "counts").write_text("\n".join(log) + "\n")
    demo.config.write_text(
        f"redis = {site.redis.url}\ndb = {site.db.url}\nlisten = unix:{site.folder}/api.sock\n"
        f"api = http+unix://{site.folder}/api.sock\nworkers = 4\n" + "".join(f"root = {r}\n" for r in site.roots)
        + "require-markers = yes\nbandwidth = 4M\ndemote-margin = 10%\n")


def begin(demo):
    site = demo.site
    conf = demo.replace(demo.config.read_text()).splitlines()
    demo.block("\n".join(dict.fromkeys(conf)))
    demo.say("## init-level", "", "Once for each level, before the first start: the directory gets a marker, so that a mount that is",
             "missing is told from an empty level. It may be repeated.")
    demo.run("tierd init-level gold silver bronze", "tierd init-level gold")
    site.api = site.start("--role=api", f"--config={demo.config}")
    site.start("--role=worker", f"--config={demo.config}")


def post(demo):
    demo.say("## post", "", "What a count would do, and then the count itself. This is the big move that is under way from here on.")
    demo.run(f"tierd post {BIG} 5200 --dry-run", f"tierd post {BIG} 5200")
    demo.say("## pause", "", "No move into silver starts from now on; then four more counts: for a content that belongs in silver, for",
             "one whose name is taken in gold, for one whose file is gone, and for one that the margin keeps in gold.")
    demo.run("tierd pause silver")
    demo.run(f"tierd post {PAUSED} 1450", f"tierd post {CLASH} 4100", f"tierd post {LOST} 3000", f"tierd post {HELD} 1900")
    def jobs(): return demo.json("status")["jobs"]
    wait_until(lambda: (jobs()["dead"], jobs()["conflict"], jobs()["paused"]) == (1, 1, 1), 60, "dead, conflict and paused")
    wait_until(lambda: demo.done_bytes(BIG) > 40 * 2**20, 60, "an eighth of the big move")


def look(demo):
    demo.say("## status")
    demo.run("tierd status")
    demo.say("For programs:")
    demo.run("tierd status --json | jq -M '.moves[0]'")
    demo.say("`--watch` shows it again every second, until Ctrl-C. Here it is stopped after its first frame:")
    demo.run("timeout --preserve-status 0.6 tierd status --watch")
    demo.say("## explain", "", "The one that moves:")
    demo.run(f"tierd explain {BIG}")
    demo.say("One that waits behind the pause, and one that the policy holds back:")
    demo.run(f"tierd explain {PAUSED}", f"tierd explain {HELD}")
    demo.say("One in conflict, one that is dead, one that there is not:")
    demo.run(f"tierd explain {CLASH}", f"tierd explain {LOST}", "tierd explain 9999999")
    demo.run(f"tierd explain {BIG} --json | jq -M .decision")


def log(demo):
    demo.say("## post, many lines", "", "An access log that awk has summed up, lines `cid count`. The bar is wiped away at the end; one of its",
             "states is kept here.")
    demo.run("head -n 3 counts", "tierd post - --dry-run < counts", "tierd post - < counts", "printf '7 many\\n9999999 5\\n' | tierd post -")


def mend(demo):
    site = demo.site
    demo.say("## resume")
    demo.run("tierd resume silver")
    site.wait_moved(PAUSED, FILES[PAUSED][0], "silver", 60)
    demo.say("## retry", "", "The causes are mended first: the file in the way goes, the lost one comes back.")
    demo.run(f"rm {site.paths['gold']}/{FILES[CLASH][0]}", f"mv 'lost reel.mp4' {site.paths['bronze']}/films/2017/", f"tierd retry {CLASH}", "tierd retry --all-dead",
             f"tierd retry {PAUSED}")
    for cid in (CLASH, LOST):
        site.wait_moved(cid, FILES[cid][0], "gold", 60)
    demo.run(f"tierd explain {CLASH}")


def check(demo):
    site = demo.site
    demo.say("## check", "", "Somebody copied one content by hand, moved another, and left a file of his own. Without `--repair` nothing is",
             "changed.")
    def place(level, name): return site.paths[level] / name
    place("silver", "series").mkdir(exist_ok=True)
    place("gold", "series").mkdir(exist_ok=True)
    shutil.copy2(place("silver", FILES[106][0]), place("gold", FILES[106][0]))
    shutil.move(place("bronze", FILES[107][0]), place("silver", FILES[107][0]))
    place("bronze", "notes.txt").write_text("mine\n")
    demo.run("tierd check")
    demo.run("tierd check --repair")
    wait_until(lambda: not place("gold", FILES[106][0]).exists(), 60, "the second copy is taken away")
    demo.run("tierd check --json")


def stop(demo):
    demo.say("## cancel", "", "The big move is still under way. The worker stops in the middle of it and drops its part of a copy.")
    demo.run(f"tierd cancel {BIG}")
    wait_until(lambda: demo.json("explain", str(BIG))["state"] == "", 60, "the worker drops it")
    demo.run(f"tierd explain {BIG}")
    demo.say("## pause and resume everything")
    demo.run("tierd pause --all", "tierd status | grep HELD", "tierd resume", "tierd resume")
    demo.say("## What may go wrong", "", "Wrong words, a wrong value in the file, a server that is away:")
    (demo.site.folder / "wrong.conf").write_text(demo.config.read_text().replace("db=1", "db=one"))
    demo.names.insert(0, (f"{demo.site.folder}/wrong.conf", "/etc/tierd/wrong.conf"))
    demo.run("tierd pause copper", "tierd post 101 many", f"tierd status --config={demo.site.folder}/wrong.conf",
             "tierd explain 101 --redis=unix:///nowhere")


def main():
    folder, other = tempfile.mkdtemp(prefix="t.", dir="/tmp"), tempfile.mkdtemp(prefix="t.", dir="/dev/shm")
    servers = tempfile.mkdtemp(prefix="tierd-transcript.")
    redis, db, demo = Redis(f"{servers}/redis", net="unix"), MariaDB(f"{servers}/db", net="unix"), None
    try:
        redis.start()
        db.install().start()
        db.load("schema.sql")
        demo = Demo(redis, db, folder, other)
        fill(demo)
        for part in (begin, post, look, log, mend, check, stop):
            part(demo)
        OUT.write_text("\n".join(demo.text) + "\n")
        print(f"  {OUT}")
    finally:
        if demo:
            demo.site.close()
        redis.close()
        db.close()
        for path in (folder, other, servers):
            shutil.rmtree(path, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
