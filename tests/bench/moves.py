"""`make bench BENCH=moves`: how fast contents move, beside cp, mv and rsync in the same run.

The levels lie on two ext4 images and a btrfs image, each mounted by loop for this run. Every figure is end to end: from the post
to the old copy being gone, the new one durable and committed; the peers' include their fsync. Several rounds, taken in
turns; the table gives medians and the ratio to the peer. Nothing is asserted."""
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.servers import ROOT, TIERD, MariaDB, Redis, Tierd  # noqa: E402

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
FILES = int(os.environ.get("FILES", "1000"))
SMALL = 4 * FILES  # of 4 KiB, moved at once; FILES are moved one after the other
FINISHED = int(os.environ.get("FINISHED", "1000000"))
GIB = 2**30
CHILDREN = 4


def run(*words, **kwargs):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True, **kwargs)


@contextlib.contextmanager
def mounted(folder, kind, size):
    image, mount = folder / f"{kind}-{len(list(folder.iterdir()))}.img", None
    with open(image, "wb") as f:
        f.truncate(size)
    mount = pathlib.Path(str(image)[:-4])
    mount.mkdir()
    run(f"mkfs.{kind}", "-q", image)
    run("mount", "-o", "loop", image, mount)
    try:
        yield mount
    finally:
        run("umount", mount)
        image.unlink()


def fill(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        for _ in range(0, size, 2**20):
            f.write(os.urandom(min(size, 2**20)))
        f.flush()
        os.fsync(f.fileno())


def timed(call):
    os.sync()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Bench:
    """One tierd over levels that are set for each measurement."""

    def __init__(self, redis, db, roots):
        self.redis, self.db = redis, db
        common = [f"--redis={redis.url}", f"--db={db.url}"]
        self.api = Tierd("--role=api", "--listen=127.0.0.1:0", *common)
        self.worker = Tierd("--role=worker", f"--api=http://{self.api.address}", f"--workers={CHILDREN}", "--log-level=warn",
                            *[f"--root={r}" for r in roots], *common)
        host, port = self.api.address.split(":")
        self.line = http.client.HTTPConnection(host, int(port))
        self.next_cid = 1

    def close(self):
        self.worker.stop()
        self.api.stop()

    def levels(self, bronze, gold):
        """The workers re-read the table every few seconds; a new one is known when it answers."""
        self.db.sql("DELETE FROM contents; DELETE FROM level; INSERT INTO level VALUES "
                    f"('bronze', '{bronze}', 0), ('gold', '{gold}', 1000)")
        time.sleep(7)

    def add(self, names):
        first = self.next_cid
        self.next_cid += len(names)
        for at in range(0, len(names), 1000):
            self.db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
                        + ", ".join(f"({first + at + i}, 'bronze', '{n}')" for i, n in enumerate(names[at:at + 1000])))
        return range(first, self.next_cid)

    def post(self, cid):
        self.line.request("POST", "/post_sentence", f"cid={cid}&count=5000")
        answer = self.line.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"post answered {answer.status}: {body}")

    def move(self, cids, sources):
        """Posted by as many clients as there are children, each over a line of its own."""
        clients = [subprocess.Popen([TIERD, "post", "-", f"--api=http://{self.api.address}"], stdin=subprocess.PIPE,
                                    stdout=subprocess.DEVNULL, text=True) for _ in range(min(CHILDREN, len(cids)))]
        for k, client in enumerate(clients):
            client.stdin.write("".join(f"{cid} 5000\n" for cid in cids[k::CHILDREN]))
            client.stdin.close()
        if any(client.wait() for client in clients):
            raise SystemExit("a post failed")
        for source in sources:
            while os.path.exists(source):
                time.sleep(0.0002)


def row(what, tierd, peer_name, peer, unit):
    ours, theirs = statistics.median(tierd), statistics.median(peer) if peer else None
    ratio = f"{ours / theirs:6.2f} x" if peer else ""
    peer_text = f"{peer_name} {theirs:9.2f} {unit}" if peer else ""
    print(f"{what:<44} tierd {ours:9.2f} {unit:<8} {peer_text:<44} {ratio}", flush=True)


def big_file(bench, bronze, gold):
    ours, cp = [], []
    bench.levels(bronze, gold)
    for i in range(ROUNDS):
        fill(bronze / f"big{i}", GIB)
        (cid,) = bench.add([f"big{i}"])
        ours.append(timed(lambda i=i, cid=cid: bench.move([cid], [bronze / f"big{i}"])))
        (gold / f"big{i}").unlink()
        fill(bronze / "peer", GIB)

        def peer():
            run("cp", bronze / "peer", gold / "peer")
            run("sync", gold / "peer", gold)
            (bronze / "peer").unlink()
        cp.append(timed(peer))
        (gold / "peer").unlink()
    row("1 GiB across file systems", [1024 / s for s in ours], "cp+fsync+rm", [1024 / s for s in cp], "MiB/s")


def small_files(bench, bronze, gold, label=""):
    ours, rsync, mv = [], [], []
    bench.levels(bronze, gold)
    for _ in range(ROUNDS):
        folder = f"s{bench.next_cid}"
        names = [f"{folder}/{k}" for k in range(SMALL)]
        (bronze / folder).mkdir()
        for name in names:
            (bronze / name).write_bytes(os.urandom(4096))
        cids = bench.add(names)
        ours.append(SMALL / timed(lambda: bench.move(cids, [bronze / n for n in names])))
        shutil.rmtree(gold / folder)
        shutil.rmtree(bronze / folder, ignore_errors=True)  # the last of its files took it along
        for peer, took in (("rsync", rsync), ("mv", mv)):
            (bronze / peer).mkdir()
            for k in range(SMALL):
                (bronze / peer / str(k)).write_bytes(os.urandom(4096))
            if peer == "rsync":
                took.append(SMALL / timed(lambda: run("rsync", "-a", "--fsync", "--remove-source-files",
                                                      f"{bronze}/rsync/", f"{gold}/rsync/")))
            else:
                took.append(SMALL / timed(lambda: (run("mv", bronze / "mv", gold / "mv"), run("sync", "-f", gold))))
            shutil.rmtree(gold / peer)
            shutil.rmtree(bronze / peer, ignore_errors=True)
    row(f"{SMALL} files of 4 KiB, {CHILDREN} children{label}", ours, "rsync --fsync", rsync, "files/s")
    row("", ours, "mv, sync once", mv, "files/s")
    return statistics.median(ours)


def instant(bench, what, bronze, gold):
    took = []
    bronze.mkdir(exist_ok=True)
    bench.levels(bronze, gold)
    for i in range(ROUNDS):
        fill(bronze / f"i{i}", GIB)
        (cid,) = bench.add([f"i{i}"])
        took.append(1000 * timed(lambda i=i, cid=cid: bench.move([cid], [bronze / f"i{i}"])))
        (gold / f"i{i}").unlink()
    row(what, took, "", None, "ms")


def latency(bench, bronze, gold, label):
    """Post to committed (the row says so, seen over one connection), one after the other."""
    took = []
    bench.levels(bronze, gold)
    client = subprocess.Popen([*bench.db.command(), "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, bufsize=1)
    folder = f"l{bench.next_cid}"
    (bronze / folder).mkdir()
    names = [f"{folder}/{k}" for k in range(FILES)]
    for name in names:
        (bronze / name).write_bytes(os.urandom(4096))
    for cid in bench.add(names):
        started = time.perf_counter()
        bench.post(cid)
        while True:
            client.stdin.write(f"SELECT content_level FROM contents WHERE cid = {cid};\n")
            client.stdin.flush()
            if client.stdout.readline().strip() == "gold":
                break
        took.append(1000 * (time.perf_counter() - started))
    client.stdin.close()
    client.wait()
    took.sort()
    print(f"{'post to committed, 4 KiB' + label:<44} p50 {statistics.median(took):7.2f} ms   p99 "
          f"{took[int(len(took) * 0.99) - 1]:7.2f} ms", flush=True)
    shutil.rmtree(gold / folder)
    return statistics.median(took)


def finish_many(redis):
    """As many finished jobs as a week of a busy site leaves behind."""
    load = subprocess.Popen(["redis-cli", "-s", str(redis.socket), "-n", "1", "--pipe"], stdin=subprocess.PIPE,
                            stdout=subprocess.DEVNULL, text=True)
    for cid in range(10**9, 10**9 + FINISHED):
        text = json.dumps({"cid": str(cid), "count": "1", "target": "bronze", "db_level": "bronze",
                           "filename": f"{cid}.mp4", "worker_id": None, "status": "done"})
        load.stdin.write(f"*5\r\n$3\r\nSET\r\n${len(str(cid))}\r\n{cid}\r\n${len(text)}\r\n{text}\r\n"
                         "$2\r\nPX\r\n$9\r\n604800000\r\n")
    load.stdin.close()
    load.wait()
    while "aof_rewrite_in_progress:1" in redis.cli("INFO", "persistence"):  # for what came just now
        time.sleep(1)


def main():
    if os.geteuid() != 0:
        raise SystemExit("this bench mounts file systems and needs root")
    base = ROOT / "build" / "bench-moves"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base, True)
        redis, db = Redis(base / "redis", net="unix"), MariaDB(base / "db", net="unix")
        stack.callback(redis.close)
        stack.callback(db.close)
        redis.start()
        db.install().start()
        db.load("schema.sql")
        images = pathlib.Path(tempfile.mkdtemp(prefix="images.", dir=base))
        one = stack.enter_context(mounted(images, "ext4", 6 * GIB))
        two = stack.enter_context(mounted(images, "ext4", 6 * GIB))
        snap = stack.enter_context(mounted(images, "btrfs", 6 * GIB))
        for name in ("bronze", "gold"):
            run("btrfs", "subvolume", "create", snap / name)
        (one / "bronze").mkdir()
        (one / "gold").mkdir()
        (two / "gold").mkdir()
        bench = Bench(redis, db, (one, two, snap))
        stack.callback(bench.close)
        big_file(bench, one / "bronze", two / "gold")
        instant(bench, "1 GiB on one file system (link)", one / "bronze", one / "gold")
        instant(bench, "1 GiB between btrfs subvolumes (reflink)", snap / "bronze", snap / "gold")
        before = small_files(bench, one / "bronze", two / "gold")
        quick = latency(bench, one / "bronze", two / "gold", "")
        finish_many(redis)
        label = f", {FINISHED} finished jobs"
        after = small_files(bench, one / "bronze", two / "gold", label)
        slow = latency(bench, one / "bronze", two / "gold", label)
        print(f"with {FINISHED} finished jobs in Redis: files/s x {after / before:.2f}, p50 x {slow / quick:.2f}")


if __name__ == "__main__":
    main()
