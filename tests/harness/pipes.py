"""Long-lived connections for tests that ask thousands of questions: one process a question is too slow."""
import http.client
import socket
import subprocess

from harness.servers import Failed, die_with_parent

END = "--end of answer--"
TIMEOUT_S = 20


def connect(address, timeout=TIMEOUT_S):
    """A connection to (host, port), or to a unix socket's path."""
    if isinstance(address, tuple):
        s = socket.create_connection(address, timeout=timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    try:
        s.connect(str(address))
    except BaseException:
        s.close()
        raise
    return s


class Http(http.client.HTTPConnection):
    """A connection to an API; `address` as its ready line says it, or (host, port)."""

    def __init__(self, address, timeout=10):
        super().__init__("tierd", timeout=timeout)
        self.address = address if isinstance(address, tuple) else parse(address)

    def connect(self):
        self.sock = connect(self.address, self.timeout)


def parse(address):
    """`127.0.0.1:5000` or `unix:/path` as connect() takes it."""
    if address.startswith("unix:"):
        return address[5:]
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


class Resp:
    """Redis' protocol, as much of it as a test needs. An error of Redis is raised. `address` is (host, port) or a path."""

    def __init__(self, address, db):
        self.address, self.db = address, db
        self.socket = self.stream = None

    def _connect(self):
        self.socket = connect(self.address)
        self.stream = self.socket.makefile("rb")
        self._ask("SELECT", str(self.db))

    def _ask(self, *words):
        data = [str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in data))
        return self._read()

    def _read(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise OSError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Failed(f"redis: {rest.decode()}")
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.stream.read(int(rest) + 2)[:-2].decode()
        return None if rest == b"-1" else [self._read() for _ in range(int(rest))]

    def __call__(self, *words):
        if not self.socket:
            self._connect()
        try:
            return self._ask(*words)
        except OSError:
            self.close()
            raise

    def close(self):
        if self.socket:
            self.stream.close()
            self.socket.close()
        self.socket = None


class Away(OSError):
    """The client has no answer: its server is away."""


class Sql:
    """A mariadb client that is kept open."""

    def __init__(self, db):
        self.db = db
        self.process = None

    def __call__(self, statement):
        if not self.process:
            self.process = subprocess.Popen([*self.db.command(), "--unbuffered"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
                                            preexec_fn=die_with_parent())
        rows = []
        try:
            self.process.stdin.write(f"{statement};\nSELECT '{END}';\n")
            self.process.stdin.flush()
            while (line := self.process.stdout.readline()) != f"{END}\n":
                if not line:
                    raise Away("the mariadb client ended")
                rows.append(line.rstrip("\n").split("\t"))
        except OSError as error:
            text = self.process.stderr.read() if self.process.poll() is not None else ""
            self.close()
            raise Away(f"{error}: {statement}: {text}") from None
        return rows

    def close(self):
        if self.process:
            self.process.kill()
            self.process.communicate()
        self.process = None
