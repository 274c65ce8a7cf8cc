"""What a content costs in Redis: bytes of a waiting job, and of a finished one, over many.

The shipped binary makes some of each through its API; Redis then copies them, key by key, to as many as are asked for.
"""
import argparse
import http.client
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.servers import TIERD, MariaDB, Redis, Tierd  # noqa: E402

MADE = 64
MULTIPLY = """
for i = ARGV[1] + 1, ARGV[2] do
    local from = i % ARGV[1] + 1
    redis.call('COPY', from, i)
    redis.call('COPY', 'tierd:job:' .. from, 'tierd:job:' .. i)
    local due = redis.call('ZSCORE', 'tierd:due', from)
    if due then redis.call('ZADD', 'tierd:due', due, i) end
end
"""

# as src/queue/lua/part/note.lua writes it
NOTE = """
local line = table.concat({'1790000000000', 'moved', 'from', 'bronze', 'to', 'gold', 'bytes', '8388608', 'ms', '1234'}, '\\0')
for i = 1, ARGV[1] do
    for _ = 1, ARGV[2] do redis.call('LPUSH', 'tierd:log:' .. i, line) end
    redis.call('PEXPIRE', 'tierd:log:' .. i, 604800000)
end
"""


def used(redis):
    info = redis.cli("INFO", "memory")
    return int(next(line for line in info.splitlines() if line.startswith("used_memory:")).split(":")[1])


def post(address, count):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for cid in range(1, MADE + 1):
        status = 0
        while status != 200:
            connection.request("POST", "/post_sentence", f"cid={cid}&count={count}",
                               {"Content-Type": "application/x-www-form-urlencoded"})
            answer = connection.getresponse()
            answer.read()
            status = answer.status
    connection.close()


def measure(redis, api, count, jobs):
    """Bytes for each content, of `jobs` that were posted with this count."""
    redis.cli("FLUSHALL")
    post(api.address, count)
    redis.cli("MEMORY", "PURGE")
    before = used(redis)
    redis.cli("EVAL", MULTIPLY, "0", str(MADE), str(jobs))
    return (used(redis) - before) / (jobs - MADE)


def measure_events(redis, moves, jobs):
    """Bytes for each content, of its own last events when it was moved so often within a week."""
    redis.cli("FLUSHALL")
    redis.cli("MEMORY", "PURGE")
    before = used(redis)
    redis.cli("EVAL", NOTE, "0", str(jobs), str(moves))
    return (used(redis) - before) / jobs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder).chmod(0o755)
        redis, db = Redis(pathlib.Path(folder) / "redis", net="unix"), MariaDB(pathlib.Path(folder) / "db", net="unix")
        api = None
        try:
            redis.start()
            db.install().start()
            db.load("schema.sql")
            db.sql("INSERT INTO level VALUES ('bronze', '/srv/tierd/bronze', 0), ('gold', '/srv/tierd/gold', 1000);"
                   f"INSERT INTO contents (cid, content_level, filename) SELECT seq, 'bronze', "
                   f"CONCAT('2018/07/', MD5(seq), '.mp4') FROM seq_1_to_{MADE}")
            api = Tierd("--role=api", "--listen=127.0.0.1:0", f"--redis={redis.url}", f"--db={db.url}")
            print(f"{TIERD.name}, file names of 44 bytes, {jobs} contents")
            print(f"waiting moves: {measure(redis, api, 5000, jobs):.0f} bytes each")
            print(f"  MEMORY USAGE 50: {redis.cli('MEMORY', 'USAGE', '50', 'SAMPLES', '0')} bytes")
            print(f"  MEMORY USAGE tierd:due: {int(redis.cli('MEMORY', 'USAGE', 'tierd:due', 'SAMPLES', '0')) / jobs:.0f} bytes each")
            redis.cli("HSET", "tierd:job:50", "state", "claimed", "head", redis.cli("GET", "50").split("null")[0], "src",
                      "bronze", "target", "gold", "filename", f"2018/07/{'x' * 32}.mp4", "rev", "1", "token", "123456",
                      "worker", "storage-1.12345.0123456789ab")
            print("  MEMORY USAGE of what a claim adds, tierd:job:50: "
                  f"{redis.cli('MEMORY', 'USAGE', 'tierd:job:50', 'SAMPLES', '0')} bytes")
            print(f"finished ones (the JSON stays for done-ttl): {measure(redis, api, 5, jobs):.0f} bytes each")
            for moves in (1, 2, 10):
                print(f"events of one that was moved {moves} times within a week: {measure_events(redis, moves, jobs):.0f} bytes")
        finally:
            if api:
                api.stop()
            redis.close()
            db.close()


if __name__ == "__main__":
    main()
