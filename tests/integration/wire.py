"""A client that speaks bytes: what a well-behaved library would never send, and what it would hide."""
import socket
import time

TIMEOUT_S = 20


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def closes(self):
        return self.headers.get("connection") == "close"


class Wire:
    def __init__(self, api, source=None, receive_buffer=None):
        host, port = api.address.rsplit(":", 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.have = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def shut(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def more(self):
        """False at the end, whether the server closed or reset."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.have += data
        return bool(data)

    def take(self, n):
        while len(self.have) < n:
            assert self.more(), f"the connection ended after {self.have!r}"
        data, self.have = self.have[:n], self.have[n:]
        return data

    def reply(self, head_only=False):
        while b"\r\n\r\n" not in self.have:
            assert self.more(), f"the connection ended after {self.have!r}"
        head, self.have = self.have.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        has_body = not head_only and int(status) >= 200
        body = self.take(int(headers["content-length"])) if has_body else b""
        return Reply(int(status), headers, body.decode())

    def ask(self, data, head_only=False):
        return self.send(data).reply(head_only)

    def ended(self):
        """Waits for the server's end; nothing may come before it."""
        while self.more():
            pass
        return self.have == b""

    def alive(self):
        return self.ask(HEALTH).status == 200


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body=b"cid=7&count=1964", path=b"/post_sentence", extra=b"", version=b"HTTP/1.1"):
    return (b"POST " + path + b" " + version + b"\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def rss_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def until(condition, what, timeout=TIMEOUT_S):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout} s"
        time.sleep(0.01)
