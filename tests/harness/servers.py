"""Private servers and tierd itself, for `make run`, `make demo` and the tests.

Everything listens on a port of its own on 127.0.0.1 and on a unix socket in a short private folder, keeps its data
where it is told to, and ends with the process that started it (PR_SET_PDEATHSIG). Nothing of the machine's own servers
is touched. TIERD_TEST_NET=unix, or `net`, says that the servers are reached through their sockets; else it is TCP.
"""
import contextlib
import ctypes
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIERD = pathlib.Path(os.environ.get("TIERD_BIN", ROOT / "build" / "tierd"))
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
START_TIMEOUT_S = 60
FREEZE_TIMEOUT_S = 30
NETS = ("tcp", "unix")
NET = os.environ.get("TIERD_TEST_NET", "tcp")
if NET not in NETS:
    raise SystemExit(f"TIERD_TEST_NET={NET} is not allowed; allowed is tcp or unix")
LOOKER = "tierd-looker"  # the name of the process that measures levels


class Failed(Exception):
    """A part did not do what it should; the text says which and shows its log."""


def unprivileged(*folders):
    """Who servers run as: ourselves, or nobody when we are root and nobody can reach the folders."""
    if os.geteuid() != 0:
        return None
    for folder in folders:
        for parent in pathlib.Path(folder).resolve().parents:
            if not parent.stat().st_mode & 0o001:
                return None
    return pwd.getpwnam("nobody")


def give_to(user, *folders):
    for folder in folders if user else ():
        for path in (folder, *pathlib.Path(folder).rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def die_with_parent(sig=signal.SIGTERM, user=None, enter=None):
    """For preexec_fn: the child ends when we do, however we end; and it is `user`, when one is given. `enter` is called
    first, with the rights that we have."""
    parent = os.getpid()

    def prepare():
        if enter:
            enter()
        if user:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        LIBC.prctl(PR_SET_PDEATHSIG, sig)  # after setuid, which forgets it
        if os.getppid() != parent:
            os._exit(1)
    return prepare


def short_dir(prefix):
    """A folder whose path leaves room for a unix socket's name (108 bytes, unix(7))."""
    return pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))


class Port:
    """A port of 127.0.0.1 that is ours until close(), whether anybody listens there or not.

    A socket that is bound and does not listen keeps it: servers bind it beside us, for both say SO_REUSEADDR, and the
    kernel gives a bound port to nobody who asks for any (socket(7), ip_local_port_range in ip(7)). So it cannot be lost
    between the choice and the server's start, nor while the server is away; who connects meanwhile is refused.
    """

    def __init__(self):
        self.keeper = socket.socket()
        self.keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.keeper.bind(("127.0.0.1", 0))
        self.number = self.keeper.getsockname()[1]

    def close(self):
        self.keeper.close()


KEPT = []


def free_port():
    """A port that is ours as long as this process lives."""
    KEPT.append(Port())
    return KEPT[-1].number


def root_args(user):
    """mariadbd refuses to run as root unless told; only where nobody else can reach its data."""
    return ["--user=root"] if os.geteuid() == 0 and not user else []


def tail(path, lines=15):
    try:
        return "\n".join(pathlib.Path(path).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def states(pid):
    """What its threads do, a letter each (proc_pid_stat(5)); none of one that is gone."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # that one ended meanwhile
            found.append(path.read_text(errors="replace").rsplit(")", 1)[1].split()[0])
    return found


def freeze(*pids):
    """They stand still when it returns: kill(2) does before all threads of a process have stopped, and mariadbd, or FUSE's
    servers, may still answer. Not for what is traced. ProcessLookupError when one has ended."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + FREEZE_TIMEOUT_S
    for pid in pids:
        while set(now := states(pid)) != {"T"}:
            if set(now) <= {"X", "Z"}:
                raise ProcessLookupError(f"{pid} has ended")
            if time.monotonic() > deadline:
                raise Failed(f"{pid} does not stop: its threads are {now}")
            time.sleep(0.001)


def thaw(*pids):
    """They go on; nothing happens to those that have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def frozen(*pids):
    """They stand still within; afterwards they go on whatever happens."""
    try:
        freeze(*pids)
        yield
    finally:
        thaw(*pids)


def stop_process(process, sig=signal.SIGTERM, timeout=30):
    """Ends one process of ours, gently, then not. A stopped one is continued first."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.send_signal(sig)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Redis:
    def __init__(self, data, *args, net=None):
        self.data = pathlib.Path(data)
        self.data.mkdir(parents=True, exist_ok=True)
        self.net = net or NET
        self.run = short_dir("tierd-r.")
        self.socket = self.run / "redis.sock"
        self.door = Port()
        self.bind = ["--bind", "127.0.0.1", "--port", str(self.door.number)]
        self.log = self.data / "redis.log"
        self.args = args
        self.env = {}
        self.enter = None  # called in the new process first, see Host.enter
        self.user = unprivileged(self.data, self.run)
        self.process = None

    @property
    def port(self):
        return self.door.number

    @property
    def address(self):
        """As socket.connect() takes it."""
        return str(self.socket) if self.net == "unix" else ("127.0.0.1", self.port)

    @property
    def url(self):
        return self.url_of(1)

    def url_of(self, db):
        return f"unix://{self.socket}?db={db}" if self.net == "unix" else f"redis://127.0.0.1:{self.port}/{db}"

    def start(self):
        self.launch()
        self.wait()
        return self

    def launch(self):
        """The process alone; it may not be able to answer yet."""
        give_to(self.user, self.data, self.run)
        self.process = subprocess.Popen(
            ["redis-server", "--unixsocketperm", "777", *self.bind, "--unixsocket", self.socket, "--dir", self.data,
             "--logfile", self.log, "--save", "", "--appendonly", "yes", *self.args],
            env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(user=self.user, enter=self.enter), start_new_session=True)

    def wait(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.cli("PING") != "PONG":
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"redis-server did not start:\n{tail(self.log)}")
            time.sleep(0.02)

    def command(self, db=1):
        where = ["-s", self.socket] if self.net == "unix" else ["-h", "127.0.0.1", "-p", str(self.port)]
        return ["redis-cli", *where, "-n", str(db)]

    def cli(self, *words, db=1):
        result = subprocess.run([*self.command(db), *words], capture_output=True, text=True, check=False)
        return result.stdout.rstrip("\n")

    def replace(self, other):
        """We stand where `other`, which has been stopped, stood: at its port and at its socket."""
        self.cli("CONFIG", "SET", "port", str(other.port))
        other.socket.unlink(missing_ok=True)
        other.socket.symlink_to(self.socket)
        self.door.close()
        self.door = other.door

    def stop(self, sig=signal.SIGTERM):
        stop_process(self.process, sig)

    def close(self):
        self.stop()
        self.door.close()
        shutil.rmtree(self.run, ignore_errors=True)


class MariaDB:
    def __init__(self, data, *args, net=None):
        self.data = pathlib.Path(data)
        self.args = args
        self.net = net or NET
        self.run = short_dir("tierd-m.")
        self.socket = self.run / "m.sock"
        self.door = Port()
        self.bind = ["--bind-address=127.0.0.1", f"--port={self.door.number}"]
        self.enter = None  # called in the new process first, see Host.enter
        self.log = self.data / "error.log"
        self.user = "root"
        self.runs_as = unprivileged(self.data, self.run)
        self.process = None

    @property
    def port(self):
        return self.door.number

    @property
    def address(self):
        """As socket.connect() takes it."""
        return str(self.socket) if self.net == "unix" else ("127.0.0.1", self.port)

    @property
    def url(self):
        if self.net == "unix":
            return f"mysql://{self.user}@localhost/tierd?socket={urllib.parse.quote(str(self.socket))}"
        return f"mysql://{self.user}@127.0.0.1:{self.port}/tierd"

    def install(self):
        """Makes the data folder, from a template that is made once for this checkout."""
        template = ROOT / "build" / "mariadb-template"
        if not (template / "ok").exists():
            made = pathlib.Path(tempfile.mkdtemp(prefix="mariadb-template.", dir=template.parent))
            result = subprocess.run(
                ["mariadb-install-db", "--no-defaults", f"--datadir={made}", "--skip-test-db",
                 "--auth-root-authentication-method=normal", *root_args(None)],
                capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise Failed(f"mariadb-install-db failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
            (made / "ok").touch()
            try:
                made.rename(template)
            except OSError:  # another run was faster
                shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(template, self.data)
        return self

    def start(self):
        self.launch()
        self.wait()
        return self

    def launch(self):
        """The process alone; it may not be able to answer yet."""
        give_to(self.runs_as, self.data, self.run)
        self.process = subprocess.Popen(
            ["mariadbd", "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}",
             *self.bind, f"--pid-file={self.run}/pid", f"--log-error={self.log}",
             "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=48M", "--max-connections=400",
             "--character-set-server=utf8mb4", *root_args(self.runs_as), *self.args],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(user=self.runs_as, enter=self.enter), start_new_session=True)

    def wait(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.try_sql("SELECT 1", database="") is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"mariadbd did not start:\n{tail(self.log)}")
            time.sleep(0.05)

    def command(self, database="tierd"):
        where = [f"--socket={self.socket}"] if self.net == "unix" else ["--host=127.0.0.1", f"--port={self.port}"]
        return ["mariadb", "--no-defaults", *where, f"--user={self.user}",
                "--batch", "--skip-column-names", "--default-character-set=utf8mb4", *([database] if database else [])]

    def try_sql(self, sql, database="tierd"):
        result = subprocess.run(self.command(database), input=sql, capture_output=True, text=True,
                                check=False)
        return result.stdout if result.returncode == 0 else None

    def sql(self, sql, database="tierd"):
        result = subprocess.run(self.command(database), input=sql, capture_output=True, text=True,
                                check=False)
        if result.returncode != 0:
            raise Failed(f"SQL failed: {result.stderr}")
        return [line.split("\t") for line in result.stdout.splitlines()]

    def load(self, *files):
        self.sql("CREATE DATABASE IF NOT EXISTS tierd CHARACTER SET utf8mb4", database="")
        for name in files:
            self.sql((ROOT / "sql" / name).read_text())

    def stop(self, sig=signal.SIGTERM):
        stop_process(self.process, sig, timeout=60)

    def close(self):
        self.stop()
        self.door.close()
        shutil.rmtree(self.run, ignore_errors=True)


class Tierd:
    """One `tierd` process; its lines are kept, and shown through `echo` when there is one."""

    def __init__(self, *args, env=None, echo=None, wait=True, enter=None):
        self.args = [str(a) for a in args]
        self.lines = []
        self.news = threading.Condition()
        self.echo = echo
        self.ended = False
        self.process = subprocess.Popen(
            [str(TIERD), *self.args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", env={**os.environ, **(env or {})},
            preexec_fn=die_with_parent(enter=enter), start_new_session=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            try:
                for role in self._roles():
                    self.wait_line(rf"^ready role={role} ", timeout=START_TIMEOUT_S)
            except Failed:
                self.stop()
                raise

    def _roles(self):
        role = next((a[7:] for a in self.args if a.startswith("--role=")), "")
        return ["api", "worker"] if role == "all" else [role]

    def _read(self):
        for line in self.process.stderr:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
            if self.echo:
                self.echo(line.rstrip("\n"))
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait_line(self, pattern, timeout=20, start=0):
        """The first line from `start` on that matches; fails when the process ends or time is up."""
        deadline = time.monotonic() + timeout
        seen = start
        with self.news:
            while True:
                for line in self.lines[seen:]:
                    if re.search(pattern, line):
                        return line
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    raise Failed(f"no line {pattern!r} from {' '.join(self.args)}; it said:\n"
                                 + "\n".join(self.lines[-20:]))
                self.news.wait(left)

    def count(self, pattern):
        return sum(1 for line in self.lines if re.search(pattern, line))

    @property
    def address(self):
        line = self.wait_line(r"^ready role=api ")
        return line.split("listen=")[1].strip()

    def children(self):
        """Those that serve or move; not the looker, which only measures the levels."""
        return [pid for pid, name in self.processes().items() if name != LOOKER]

    def lookers(self):
        return [pid for pid, name in self.processes().items() if name == LOOKER]

    def processes(self):
        """All children of the service: pid -> name."""
        out = subprocess.run(["pgrep", "-l", "-P", str(self.process.pid)], text=True, capture_output=True, check=False)
        return {int(pid): name for pid, name in (line.split(None, 1) for line in out.stdout.splitlines())}

    def stop(self, sig=signal.SIGTERM, timeout=40):
        stop_process(self.process, sig, timeout)
        self.reader.join(5)
        return self.process.returncode
