"""`make bench BENCH=latency`: from a post to the old copy being gone (copied or linked, durable, committed, retired), one
4 KiB file after the other, and the memory of the processes. Private servers; nothing is asserted."""
import http.client
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.servers import ROOT, MariaDB, Redis, Tierd  # noqa: E402

JOBS = int(os.environ.get("JOBS", "1000"))


def rss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def measure(name, redis, db, bronze, gold):
    db.sql("DELETE FROM contents; DELETE FROM level;")
    redis.cli("FLUSHALL")
    db.sql(f"INSERT INTO level VALUES ('bronze', '{bronze}', 0), ('gold', '{gold}', 1000)")
    db.sql("INSERT INTO contents (cid, content_level, filename) VALUES "
           + ", ".join(f"({i}, 'bronze', '{i}')" for i in range(1, JOBS + 1)))
    for i in range(1, JOBS + 1):
        (bronze / str(i)).write_bytes(os.urandom(4096))
    common = [f"--redis={redis.url}", f"--db={db.url}"]
    api = Tierd("--role=api", "--listen=127.0.0.1:0", *common)
    worker = Tierd("--role=worker", f"--api=http://{api.address}", f"--root={bronze.parent}", f"--root={gold.parent}",
                   "--workers=4", *common)
    try:
        host, port = api.address.split(":")
        line, took = http.client.HTTPConnection(host, int(port)), []
        for i in range(1, JOBS + 1):
            source = str(bronze / str(i))
            started = time.perf_counter()
            line.request("POST", "/post_sentence", f"cid={i}&count=5000")
            line.getresponse().read()
            while os.path.exists(source):
                time.sleep(0.0001)
            took.append((time.perf_counter() - started) * 1000)
        took.sort()
        print(f"{name:<22} {JOBS:>6} jobs   p50 {statistics.median(took):6.2f} ms   "
              f"p99 {took[int(JOBS * 0.99) - 1]:6.2f} ms   max {took[-1]:6.2f} ms")
        print(f"{'':<22} RSS  api {max(map(rss_kib, api.children()))} KiB, worker child "
              f"{max(map(rss_kib, worker.children()))} KiB, supervisor {rss_kib(worker.process.pid)} KiB")
    finally:
        worker.stop()
        api.stop()


def main():
    base = ROOT / "build" / "bench" / "latency"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    other = pathlib.Path(tempfile.mkdtemp(prefix="tierd-bench.", dir="/dev/shm"))
    redis, db = Redis(base / "redis", net="unix"), MariaDB(base / "db", net="unix")
    try:
        redis.start()
        db.install().start()
        db.load("schema.sql")
        for name, src, dst in (("one file system", base / "one" / "bronze", base / "one" / "gold"),
                               ("tmpfs to disk", other / "bronze", base / "two" / "gold")):
            src.mkdir(parents=True)
            dst.mkdir(parents=True)
            measure(name, redis, db, src, dst)
    finally:
        redis.close()
        db.close()
        shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    main()
