"""What a content costs in Redis: bytes of a waiting job, and of a finished one, over many."""
import argparse
import http.client
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.servers import MariaDB, Redis, Tierd  # noqa: E402

PIPELINE = 200


def used(redis):
    info = redis.cli("INFO", "memory")
    return int(next(line for line in info.splitlines() if line.startswith("used_memory:")).split(":")[1])


def post_some(connection, answers, cids, count):
    """Posts pipelined; the cids that were answered with something else than 200."""
    bodies = {cid: f"cid={cid}&count={count}" for cid in cids}
    connection.sock.sendall(b"".join(f"POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Type: "
                                     f"application/x-www-form-urlencoded\r\nContent-Length: {len(b)}\r\n\r\n{b}".encode()
                                     for b in bodies.values()))
    again = []
    for cid in bodies:
        status, length = answers.readline(), 0
        if b" 200 " not in status:
            again.append(cid)
        while (line := answers.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answers.read(length)
    return again


def post_all(address, n, count):
    """Posts 1..n with the same count over one connection."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.connect()
    answers = connection.sock.makefile("rb")
    for first in range(1, n + 1, PIPELINE):
        left = list(range(first, min(first + PIPELINE, n + 1)))
        while left:
            left = post_some(connection, answers, left, count)
    connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    n = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder:
        redis, db = Redis(pathlib.Path(folder) / "redis"), MariaDB(pathlib.Path(folder) / "db")
        api = None
        try:
            redis.start()
            db.install().start()
            db.load("schema.sql")
            db.sql("INSERT INTO level VALUES ('bronze', '/srv/tierd/bronze', 0), ('gold', '/srv/tierd/gold', 1000);"
                   f"INSERT INTO contents (cid, content_level, filename) SELECT seq, 'bronze', "
                   f"CONCAT('2018/07/', MD5(seq), '.mp4') FROM seq_1_to_{n}")
            api = Tierd("--role=api", "--listen=127.0.0.1:0", f"--redis={redis.url}", f"--db={db.url}")
            empty = used(redis)
            started = time.monotonic()
            post_all(api.address, n, 5000)
            took = time.monotonic() - started
            waiting = used(redis)
            print(f"{n} waiting moves: {(waiting - empty) / n:.0f} bytes each, posted in {took:.1f} s by one connection")
            for key in ("50", "tierd:job:50"):
                print(f"  MEMORY USAGE {key}: {redis.cli('MEMORY', 'USAGE', key, 'SAMPLES', '0')} bytes")
            for key in ("tierd:due",):
                print(f"  MEMORY USAGE {key}: {int(redis.cli('MEMORY', 'USAGE', key, 'SAMPLES', '0')) / n:.0f} bytes each")
            redis.cli("FLUSHALL")
            empty = used(redis)
            post_all(api.address, n, 5)
            print(f"{n} finished ones (the JSON stays for done-ttl): {(used(redis) - empty) / n:.0f} bytes each")
        finally:
            if api:
                api.stop()
            redis.close()
            db.close()


if __name__ == "__main__":
    main()
