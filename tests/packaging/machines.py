"""Whole small machines: a Debian in an overlay, with its own mounts, processes, network and init.

The base is made once by debootstrap, from the mirror that this host is configured for, and kept under
build/chroot. A machine sees Redis and MariaDB through their unix sockets at /opt/redis and /opt/db.
"""
import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import time

import pytest
from conftest import wait_until
from harness.servers import ROOT, Failed, MariaDB, Redis, die_with_parent, stop_process

BASE = ROOT / "build" / "chroot" / "base"
INCLUDE = "systemd,openrc,runit,s6,logrotate"
INITS = {
    "systemd": "/lib/systemd/systemd --log-target=journal --unit=multi-user.target",
    "s6": "/usr/bin/s6-svscan /etc/s6",  # also for those who have no first process of their own: it reaps
}
# $1: folder of the overlay, $2: base, $3: Redis' socket folder, $4: MariaDB's, $5: the init
BOOT = r"""
set -eu
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -o bind,ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p mnt/old opt/redis opt/db etc/s6
mount --bind "$3" opt/redis
mount --bind "$4" opt/db
pivot_root . mnt/old
umount -l /mnt/old
mount --make-rshared /  # credentials reach services that way
exec env -i container=chroot PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin $5
"""


def mirror():
    """Where this host's own packages come from: address and release."""
    out = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Origin: Debian",
                          "Created-By: Packages"], capture_output=True, text=True, check=False).stdout
    for line in out.splitlines():
        address, release, component = line.split()
        if component == "main" and release.isalpha():
            return address, release
    pytest.skip("this host is not a Debian with a mirror")


@functools.cache
def base():
    if os.geteuid() != 0:
        pytest.skip("machines need root")
    if not (BASE.parent / "ok").exists():
        shutil.rmtree(BASE, ignore_errors=True)
        BASE.parent.mkdir(parents=True, exist_ok=True)
        address, release = mirror()
        with open(BASE.parent / "log", "wb") as log:
            if subprocess.run(["debootstrap", "--variant=minbase", f"--include={INCLUDE}", release, BASE, address],
                              stdout=log, stderr=log, check=False).returncode != 0:
                raise Failed(f"debootstrap failed, see {BASE.parent}/log")
        (BASE.parent / "ok").touch()
    return BASE


def cgroup_root():
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return pathlib.Path(folder)
    pytest.skip("there is no cgroup2")


class Machine:
    def __init__(self, folder, redis, db, init):
        self.folder = folder
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)
        self.cgroup = cgroup_root() / f"tierd-test-{os.getpid()}-{time.monotonic_ns()}"
        self.cgroup.mkdir()
        prepare = die_with_parent()

        def enter():
            prepare()
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        self.unshare = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc", "--uts", "--net",
             "--propagation", "private", "sh", "-c", BOOT, "sh", folder, base(), redis.run, db.run, INITS[init]],
            stdin=subprocess.DEVNULL, preexec_fn=enter)
        self.pid = None
        try:
            self.pid = wait_until(self._init, what="the machine's first process")
            if init == "systemd":
                wait_until(lambda: "running" in self.run("systemctl", "is-system-running", ok=None).stdout, 60,
                           "the machine runs")
            else:
                wait_until(lambda: self.run("s6-svscanctl", "-a", "/etc/s6", ok=None).returncode == 0, what="s6-svscan")
        except BaseException:
            self.close()
            raise
        self.root = pathlib.Path(f"/proc/{self.pid}/root")

    def _init(self):
        if self.unshare.poll() is not None:
            raise Failed("the machine did not start")
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(OSError):
                name = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
                if name in ("systemd", "s6-svscan"):
                    return int(pid)
        return None

    def run(self, *words, ok=0, stdin=""):
        """Runs a program inside; its exit status must be `ok` unless that is None."""
        result = subprocess.run(["nsenter", "-t", str(self.pid), "-a", "env", "-i", "DEBIAN_FRONTEND=noninteractive",
                                 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *words], input=stdin,
                                capture_output=True, text=True, check=False, timeout=180)
        if ok is not None and result.returncode != ok:
            log = self.run("journalctl", "-n", "20", "-q", "--no-pager", ok=None).stdout if words[0] == "systemctl" else ""
            raise Failed(f"{' '.join(map(str, words))}: status {result.returncode}\n{result.stdout}{result.stderr}{log}")
        return result

    def path(self, inside):
        return self.root / str(inside).lstrip("/")

    def write(self, inside, text, mode=0o644):
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def install(self, package, ok=0):
        shutil.copy(package, self.path("/tmp/tierd.deb"))
        return self.run("dpkg", "-i", "/tmp/tierd.deb", ok=ok)

    def copy_tree(self, source, inside):
        shutil.copytree(source, self.path(inside))

    def ask(self, path, form=None):
        """A request to the API inside, over its socket."""
        words = ["curl", "-s", "-w", "\n%{http_code}", "--max-time", "5", "--unix-socket",
                 self.path("/run/tierd/api.sock"), f"http://x{path}", *(["-d", form] if form else [])]
        body, _, status = subprocess.run(words, capture_output=True, text=True, check=False).stdout.rpartition("\n")
        return int(status or 0), body

    def tierd_pids(self):
        found = []
        for folder in self.path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text() == "tierd\n":
                    found.append(int(folder.name))
        return found

    def host_pid(self, pid):
        """The pid that a process inside has here (NSpid, proc(5))."""
        for path in pathlib.Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                ids = next(x for x in path.read_text().splitlines() if x.startswith("NSpid:")).split()[1:]
                if ids[1:] == [str(pid)] and os.readlink(path.parent / "ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid"):
                    return int(ids[0])
        raise Failed(f"no process {pid} in the machine")

    def close(self):
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
        stop_process(self.unshare)
        for path in sorted((p for p in self.cgroup.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        with contextlib.suppress(OSError):
            self.cgroup.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)


CONF = """
listen = unix:/run/tierd/api.sock
redis = unix:///opt/redis/redis.sock?db=1
db = mysql://tierd@localhost/tierd?socket=/opt/db/m.sock
root = /srv/tierd
workers = 2
api = http+unix:///run/tierd/api.sock
"""
PASSWORD = "open sesame\n"


def digest(machine):
    """Every content: name, owner, mode, bytes."""
    return {p.name: (p.stat().st_uid, p.stat().st_gid, p.stat().st_mode, p.read_bytes())
            for p in machine.path("/srv/tierd").glob("*/*")}


def check_move(machine, cid, name, count, level):
    """A post through the API inside moves a file that is not tierd's; owner and mode stay."""
    wait_until(lambda: machine.ask("/health")[0] == 200, what="health")
    before = digest(machine)
    status, body = machine.ask("/post_sentence", f"cid={cid}&count={count}")
    assert status == 200 and f'"target": "{level}"' in body
    wait_until(lambda: [p.parent.name for p in machine.path("/srv/tierd").glob(f"*/{name}")] == [level] and
               machine.db.sql(f"SELECT content_level FROM contents WHERE cid = {cid}")[0][0] == level, 30,
               f"{name} moves to {level}; {machine.ask('/health')}, {machine.redis.cli('GET', str(cid))}")
    assert digest(machine) == before


@pytest.fixture(scope="session")
def outside(tmp_path_factory):
    """Redis and MariaDB as servers elsewhere, with a password for the database."""
    base()
    redis = Redis(tmp_path_factory.mktemp("redis"))
    db = MariaDB(tmp_path_factory.mktemp("db") / "data")
    try:
        redis.start()
        db.install().start()
        db.load("schema.sql", "sample.sql")
        db.sql("CREATE USER tierd@localhost IDENTIFIED BY 'open sesame'; GRANT SELECT ON tierd.* TO tierd@localhost;"
               "GRANT UPDATE ON tierd.contents TO tierd@localhost")
        for server in (redis, db):
            server.run.chmod(0o755)
        yield redis, db
    finally:
        redis.close()
        db.close()


@pytest.fixture
def machine(outside, tmp_path):
    """Starts machines with the sample catalogue in /srv/tierd, owned by somebody else than tierd."""
    redis, db = outside
    with contextlib.ExitStack() as stack:
        def start(init):
            redis.cli("FLUSHALL")
            db.sql("DELETE FROM contents; DELETE FROM level;")
            db.sql((ROOT / "sql" / "sample.sql").read_text())
            for level in ("bronze", "silver", "gold"):
                db.sql(f"UPDATE level SET path = '/srv/tierd/{level}' WHERE level = '{level}'")
            m = Machine(tmp_path / f"m{init}", redis, db, init)
            stack.callback(m.close)
            m.db, m.redis = db, redis
            for cid, level, name in db.sql("SELECT cid, content_level, filename FROM contents"):
                m.write(f"/srv/tierd/{level}/{name}", f"content {cid}" * 1000, 0o640)
            for path in m.path("/srv/tierd").rglob("*"):
                os.chown(path, 33, 33)
            return m
        yield start


@pytest.fixture(scope="session")
def packages():
    """The package as it is, and a higher version."""
    for version in ("0.0.1", "0.0.2"):
        subprocess.run(["make", "-s", "deb", f"PACKAGE_VERSION={version}"], cwd=ROOT, check=True,
                       env={**os.environ, "MAKEFLAGS": ""})
    return [next((ROOT / "build").glob(f"tierd_{v}_*.deb")) for v in ("0.0.1", "0.0.2")]
