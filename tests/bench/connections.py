"""`make bench BENCH=connections`: memory of one API process with 10,000 keep-alive connections, each idle after a
post, then with as many that have sent half a request, and how one more client is served beside them."""
import os
import resource
import socket
import time

from lab import COUNT_MAX, Lab, Report, median, rss_kib

CONNECTIONS = int(os.environ.get("CONNECTIONS", "10000"))
POSTS = 500
HEAD = "POST /post_sentence HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: "


def post(i):
    body = f"cid={i % 100000 + 1}&count={i % COUNT_MAX}"
    return f"{HEAD}{len(body)}\r\n\r\n{body}".encode()


def connect(peer):
    s = socket.create_connection((peer.host, peer.port), timeout=30)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def answered(s):
    data = s.recv(4096)
    assert data.startswith(b"HTTP/1.1 200 "), data
    return data


def one_more(peer):
    """Milliseconds of single posts on one connection: median and the worst."""
    took = []
    with connect(peer) as s:
        for i in range(POSTS):
            started = time.perf_counter()
            s.sendall(post(i))
            answered(s)
            took.append((time.perf_counter() - started) * 1000)
    return f"{median(took):.2f} ms, at worst {max(took):.2f} ms"


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, CONNECTIONS + 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    count = min(CONNECTIONS, wanted - 500)
    report = Report("connections")
    with Lab() as lab, lab.serving("tierd") as peer:
        pid = peer.pids[0]
        fresh = rss_kib(pid)
        report.line(f"no connection: RSS {fresh} KiB; a post takes {one_more(peer)}")
        idle = []
        for i in range(count):
            idle.append(connect(peer))
            idle[-1].sendall(post(i))
            answered(idle[-1])
        report.line(f"{count} idle connections, each after a post: RSS {rss_kib(pid)} KiB, "
                    f"{(rss_kib(pid) - fresh) * 1024 / count:.0f} bytes each; a post takes {one_more(peer)}")
        for i, s in enumerate(idle):
            s.sendall(post(i)[:-5])
        took = one_more(peer)  # behind all of them
        report.line(f"the same with half a request in each: RSS {rss_kib(pid)} KiB; a post takes {took}")
        for s in idle:
            s.close()


if __name__ == "__main__":
    main()
