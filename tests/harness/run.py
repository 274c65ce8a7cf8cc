"""`make run` and `make demo`: a whole tierd with servers of its own, to try or to prove.

Everything lies under build/run/ and ends with this process.
"""
import argparse
import contextlib
import fcntl
import hashlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.servers import ROOT, TIERD, Failed, MariaDB, Redis, Tierd  # noqa: E402

RUN = ROOT / "build" / "run"
LEVELS = ("gold", "silver", "bronze")
SAMPLE_BYTES = 128 * 1024
COUNTS = {7: 1964, 4: 2500, 1: 12, 3: 664, 6: 1500, 2: 1001}
TTY = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if TTY else text


def say(text=""):
    print(text, flush=True)


def lock():
    """One run per checkout."""
    RUN.parent.mkdir(exist_ok=True)
    handle = open(RUN.parent / "run.lock", "w", encoding="ascii")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Failed("a `make run` or `make demo` is under way in this checkout already") from None
    return handle


def free_address():
    """Port 5000, as in the manual, when nobody has it; else any."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", 5000))
            return "127.0.0.1:5000"
        except OSError:
            return "127.0.0.1:0"


def make_levels(db):
    levels = RUN / "levels"
    for name in LEVELS:
        (levels / name).mkdir(parents=True)
        db.sql(f"UPDATE level SET path = '{levels / name}' WHERE level = '{name}'")
    rng = random.Random(7)
    for _, level, name in rows(db):
        (levels / level / name).write_bytes(rng.randbytes(SAMPLE_BYTES))
    return levels


def rows(db):
    return db.sql("SELECT cid, content_level, filename FROM contents ORDER BY cid")


def contents(levels):
    return [p for p in levels.rglob("*") if p.is_file() and p.name != ".tierd-level"]


def hashes(levels):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in contents(levels)}


def post(base, path, body):
    with urllib.request.urlopen(f"{base}/{path}", data=body.encode(), timeout=5) as answer:
        return answer.read().decode()


def show_worker(line):
    if " msg=" in line:
        colour = "31" if "level=error msg=" in line else "33" if "level=warn msg=" in line else "36"
        say(paint(colour, line))


@contextlib.contextmanager
def system(echo):
    """Starts all parts; whatever happens, stops them in the reverse order."""
    with contextlib.ExitStack() as stack:
        stack.callback(lock().close)
        shutil.rmtree(RUN, ignore_errors=True)
        RUN.mkdir(parents=True)
        redis = Redis(RUN / "redis")
        stack.callback(redis.close)
        db = MariaDB(RUN / "mariadb")
        stack.callback(db.close)
        redis.start()
        db.install().start()
        db.load("schema.sql", "sample.sql")
        levels = make_levels(db)
        common = [f"--redis={redis.url}", f"--db={db.url}"]
        subprocess.run([TIERD, "init-level", *LEVELS, f"--root={levels}", *common], check=True,
                       stdout=subprocess.DEVNULL)
        api = Tierd("--role=api", f"--listen={free_address()}", *common)
        stack.callback(api.stop)
        worker = Tierd("--role=worker", f"--api=http://{api.address}", f"--root={levels}", "--workers=2",
                       "--require-markers=yes", *common, echo=echo)
        stack.callback(worker.stop)
        yield redis, db, api, worker, levels


def run():
    with system(show_worker) as (redis, db, api, worker, levels):
        base = f"http://{api.address}"
        say()
        say(paint("1", "tierd is running."))
        say(f"  levels    {levels}/{{gold,silver,bronze}}   gold from 2000 views, silver from 1000")
        say(f"  api       {base}")
        say()
        say(paint("1", "Try, in another terminal:"))
        say(f'  curl {base}/post_sentence -d "cid=7&count=1964"     # g.mp4 moves bronze to silver')
        say(f'  curl {base}/post_sentence -d "cid=4&count=2500"     # d.mp4 moves bronze to gold')
        say(f"  curl {base}/health")
        say(f"  ls -l {levels}/*")
        say(f"  {' '.join(map(str, redis.command()))} get 7")
        say(f"  {' '.join(db.command())} -e 'select * from contents'")
        say()
        # the commands read where the servers are from a file, so that they stay short enough to type
        config = RUN / "tierd.conf"
        config.write_text(f"redis = {redis.url}\ndb = {db.url}\napi = {base}\nroot = {levels}\n")
        say("Workers report below. Ctrl-C stops everything.")
        say()
        say(paint("1", "Watch it:"))
        say(f"  page      {base}/")
        say(f"  terminal  {TIERD} status --watch --config={config}")
        say()
        while True:
            for name, part in (("redis-server", redis), ("mariadbd", db), ("the api", api),
                               ("the worker", worker)):
                if part.process.poll() is not None:
                    lines = "\n".join(getattr(part, "lines", [])[-10:])
                    raise Failed(f"{name} ended by itself with status {part.process.returncode}\n{lines}")
            time.sleep(0.5)


def demo():
    with system(None) as (_, db, api, worker, levels):
        base = f"http://{api.address}"
        before_hash = hashes(levels)
        before = {int(cid): (level, name) for cid, level, name in rows(db)}
        say(paint("1", f"tierd runs at {base}; posting {len(COUNTS)} view counts"))
        say()
        started = {}
        for cid, count in COUNTS.items():
            started[cid] = time.monotonic()
            say(f'  curl {base}/post_sentence -d "cid={cid}&count={count}"')
            say("  " + paint("2", post(base, "post_sentence", f"cid={cid}&count={count}")))
        want = {cid: "gold" if c >= 2000 else "silver" if c >= 1000 else "bronze"
                for cid, c in COUNTS.items()}
        took, deadline = {}, time.monotonic() + 30
        while len(took) < len(want):
            now = {int(cid): level for cid, level, _ in rows(db)}
            for cid, level in want.items():
                source = levels / before[cid][0] / before[cid][1]
                if cid not in took and now[cid] == level and (levels / level / before[cid][1]).exists() \
                        and (before[cid][0] == level or not source.exists()):
                    took[cid] = time.monotonic() - started[cid]
            if time.monotonic() > deadline:
                say("\n".join(worker.lines[-20:]))
                raise Failed(f"not moved in 30 s: {sorted(set(want) - set(took))}")
        say()
        say(paint("1", "  cid  file    views  from     to       seen after"))
        for cid in sorted(want):
            level, name = before[cid]
            arrow = want[cid] if want[cid] != level else f"{level} (stays)"
            say(f"  {cid:>3}  {name:<6}  {COUNTS[cid]:>5}  {level:<7}  {arrow:<8} {took[cid] * 1000:>6.0f} ms")
        say()
        if hashes(levels) != before_hash:
            raise Failed("the files differ from what they were")
        leftovers = [str(p) for p in contents(levels) if p.name.startswith(".tierd")]
        if leftovers or len(contents(levels)) != len(before):
            raise Failed(f"something is left over or doubled: {leftovers}")
        say(paint("32", f"All {len(before)} files stand once, each with the SHA-256 it had; "
                        "the database says where."))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", action="store_true")
    args = parser.parse_args()

    def interrupt(*_):
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, signal.SIG_IGN)  # once is enough; stopping must not be interrupted
        raise KeyboardInterrupt

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, interrupt)
    try:
        demo() if args.demo else run()
    except KeyboardInterrupt:
        say("\nEverything is stopped.")
        return 0
    except Failed as error:
        print(paint("31", f"failed: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
