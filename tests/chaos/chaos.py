"""`make test-chaos SECONDS=600 SEED=1`: random posts while everything is killed, stopped and restarted.

Four levels lie on ext4, xfs, btrfs and tmpfs, mounted for the run. Two are mergerfs pools, a cache and a slow one, whose
branches lie on the same disks. Two more show one directory: a job between these must end refused. Posters post, readers
follow the database, and one thread breaks things. Redis and MariaDB are reached over TCP, by address or by name as it comes
(TIERD_TEST_NET=unix: through their sockets); they are killed, ended, held, cut off, refuse writes, or start as replicas,
alone and together, while parts of tierd start (outages.py). Readers must never miss: level read, file opened and hashed; a
miss counts when the row is the same, to its update_time, afterwards. At the end every content stands exactly once, whole,
where the last post that was answered 200 says (or its job is dead or in conflict, for one of three good reasons), and
nothing else stands in the levels.

Writers rewrite some of the contents, in place and by rename, at the level that the database names. What they put there
has a number in it: in the end the one stands that was durable last, or one that was tried later; a copy that both sides
wrote to may be left besides it, and is counted.

Nothing may end by itself, no child die that was not killed, nobody who is told to stop have to be killed. After an outage,
now and then, and at the end, all must work again within RECOVERS_S: /health again and again, posts, commits, each worker.

What tells of a finding's cause is kept in build/chaos/SEED: what everybody said, all writes of Redis, all changes of rows.

A post without an answer, or with a 503 because of a time-out, may or may not have been taken: what such posts since
the last answered one asked for is allowed, too, and counted.
"""
import argparse
import collections
import contextlib
import errno
import functools
import hashlib
import heapq
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / folder) for folder in ("", "faults")]
import mounts  # noqa: E402
import outages  # noqa: E402
from harness.pipes import Away, Resp, Sql  # noqa: E402
from harness.servers import ROOT, TIERD, Failed, MariaDB, Redis, Tierd, free_port, frozen, short_dir, thaw  # noqa: E402

DISKS = {"tmpfs": 3000, "ext4": 2000, "xfs": 1000, "btrfs": 0}
POOLS = {"cache": ("tmpfs", "ext4"), "slow": ("xfs", "btrfs")}  # and where their branches lie
SHARED, SHOWN = "shared", "shown"  # a directory on ext4, and a bindfs of it
PAIR = (SHARED, SHOWN)
FUSE = (*POOLS, SHOWN)     # who opens a file there may miss it at the moment at which another is renamed over it
GONE = (errno.ENOENT, errno.ESTALE)
LEVELS = {**DISKS, "cache": 5000, "slow": 6000, SHARED: 7000, SHOWN: 8000}
SAME = "show the same file"        # why a job between the two is refused
DIED = "five workers died of it"
DIFFERS = "a different file has the name at the target"  # both sides wrote
IMAGE_BYTES = 512 * 2**20  # xfs takes no less than 300 MB
CONTENTS = 60
SIZE_MAX = 2 * 2**20
LEASE_S = 2
RECOVERS_S = 30            # on a machine that is busy; test_comeback.py asks for a second
WAITS_FOR_ALL = 0.5        # of the outages are followed by a look whether all works again; others by the next fault
HEALTHS = 20               # each on a connection of its own, which any of the API's processes may take
STOPS_S = 40               # the drain time-out, and what comes after it
AGAIN_S = 0.05             # between two looks at what is waited for
SETTLE_S = 180             # after the last fault: leases, backoff and five attempts
LATE_S = 10                # a command that waited in a stopped Redis may be carried out so much later
POSTERS, READERS, WORKERS = 3, 2, 2
WRITERS = 2                # each has contents of its own
WRITE_PAUSE_S = 0.05
TORN_MAX = 50
SAID = (" moves ", "is put off", "will be tried again", "abandoned", "the job is dead", "is left:", "is away", "takes no writes",
        "refuses", "has not turned", "the drain time-out is over", "may be left")
NEVER_SAID = ("redis is not as tierd needs it", "redis refuses a command", "stuck in the kernel")
OPEN_S = 0.2               # so long, at the most, is one kept open before and after the write


HISTORY = """CREATE TABLE history (at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6), cid BIGINT UNSIGNED, was TEXT, becomes TEXT);
CREATE TRIGGER remember AFTER UPDATE ON contents FOR EACH ROW
INSERT INTO history (cid, was, becomes) VALUES (NEW.cid, OLD.content_level, NEW.content_level)"""


def say(text):
    print(f"{time.monotonic() - STARTED:7.1f} s  {text}", flush=True)


STARTED = time.monotonic()


@contextlib.contextmanager
def mounted(folder, kind):
    """A file system of that kind below folder; unmounted whatever happens."""
    where = folder / kind
    where.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", where]
    else:
        image = folder / f"{kind}.img"
        with open(image, "wb") as f:
            f.truncate(IMAGE_BYTES)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        command = ["mount", "-o", "loop", image, where]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield where / "level"
    finally:
        if subprocess.run(["umount", where], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", where], capture_output=True, check=False)


def the_one(kind):
    """A file in one of the pair is in both."""
    return SHARED if kind == SHOWN else kind


def version_of(data):
    """The number in the first line, if the rest is as it was written; else None."""
    words = data[:64].split(b"\n")[0].split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None
    cid, version = map(int, words)
    return version if data == written(cid, version) else None


def written(cid, version):
    """What a writer puts into a content: as long for every version."""
    head = f"{cid:08} {version:08}\n".encode()
    line = hashlib.sha256(head).hexdigest().encode()
    return head + line * (1 + cid * 7)


class Content:
    def __init__(self, cid, name, digest, levels):
        self.cid, self.name, self.digest = cid, name, digest
        self.levels = levels          # where it is posted to
        self.durable = self.tried = 0  # versions, of a content that is written to
        self.lock = threading.Lock()  # posts of one content one after the other, so that there is a last one
        self.wanted = None
        self.answered_at = 0.0
        self.unsure = []              # (when, target)

    @property
    def is_written(self):
        return self.digest is None

    def wrong(self, data):
        """What is wrong with what was found of it, or ''."""
        if not self.is_written:
            return "" if hashlib.sha256(data).hexdigest() == self.digest else "something else"
        return "" if version_of(data) is not None else "a mixture"


class Chaos:
    def __init__(self, seed, seconds, folder, stack):
        self.rng = random.Random(seed)
        self.seed, self.seconds, self.folder = seed, seconds, folder
        self.counts = collections.Counter()
        self.findings = []
        self.stop = threading.Event()
        self.ends_at = 0.0
        self.paths = {kind: stack.enter_context(mounted(folder, kind)) for kind in DISKS}
        for pool, disks in POOLS.items():
            branches = [folder / disk / f"{pool}-branch" for disk in disks]
            self.paths[pool] = stack.enter_context(mounts.mergerfs(folder / pool / "level", *branches))
        self.paths[SHARED] = folder / "ext4" / SHARED
        self.paths[SHARED].mkdir()
        self.paths[SHOWN] = stack.enter_context(mounts.bindfs(folder / SHOWN / "level", data=self.paths[SHARED]))
        self.redis = Redis(folder / "redis", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0",
                           "--aof-timestamp-enabled", "yes")
        stack.callback(self.redis.close)
        self.db = MariaDB(folder / "db")
        stack.callback(self.db.close)
        self.redis.start()
        self.db.install().start()
        self.db.load("schema.sql")
        self.contents = self.make_contents()
        self.db.sql(HISTORY)
        self.db.sql("CREATE USER tierd@'%', tierd@localhost; GRANT SELECT ON tierd.* TO tierd@'%', tierd@localhost;"
                    "GRANT UPDATE ON tierd.contents TO tierd@'%', tierd@localhost")  # whom read_only binds
        self.port = free_port()
        roots = [f"--root={folder / kind}" for kind in (*DISKS, *POOLS, SHOWN)]
        self.commands = {"api": ["--role=api", f"--listen=127.0.0.1:{self.port}", "--api-workers=2"]}
        for n in range(WORKERS):
            self.commands[f"worker {n}"] = ["--role=worker", "--workers=2", f"--lease={LEASE_S}s", "--scan-interval=1s",
                                            "--log-level=debug", *roots]
        result = subprocess.run([TIERD, "init-level", *DISKS, *POOLS, *roots, *self.common()], capture_output=True,
                                text=True, check=False)
        if result.returncode:
            raise Failed(f"init-level: {result.stderr}")
        self.parts = {}
        self.lines = collections.defaultdict(list)  # all that each part said
        self.killed = set()                        # pids of children
        self.finished = collections.Counter()      # jobs, of each worker
        self.served_at = 0.0                       # when the last post that was answered 200 began
        self.longest_s = 0.0                       # until all worked again
        stack.callback(self.end_parts)
        for name in self.commands:
            self.start_part(name)

    def make_contents(self):
        sql = Sql(self.db)
        for kind, path in self.paths.items():
            path.mkdir(exist_ok=True)
            sql(f"INSERT INTO level VALUES ('{kind}', '{path}', {LEVELS[kind]})")
        contents = []
        for cid in range(1, CONTENTS + 1):
            levels = PAIR if cid % 15 == 2 else list(LEVELS)
            kind = self.rng.choice(levels)
            name = f"{cid % 5}/{cid % 3}/{cid}.bin" if cid % 4 else f"{cid}.bin"
            data = self.rng.randbytes(int(SIZE_MAX * self.rng.random() ** 4) if cid % 10 else 0)
            if cid % 5 == 1:
                data = written(cid, 0)
            path = self.paths[kind] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sql(f"INSERT INTO contents (cid, content_level, filename) VALUES ({cid}, '{kind}', '{name}')")
            digest = hashlib.sha256(data).hexdigest() if cid % 5 != 1 else None
            contents.append(Content(cid, name, digest, levels))
        sql.close()
        return contents

    # ---- tierd ----

    def common(self):
        """Each server by its address, or by its name."""
        def named(url):
            return url.replace("127.0.0.1", self.rng.choice(["127.0.0.1", "localhost"]))
        return [f"--redis={named(self.redis.url)}", f"--db={named(self.db.url.replace('root@', 'tierd@'))}"]

    def hear(self, name, line):
        self.lines[name].append(line)
        self.finished[name] += "msg=finished " in line
        for words in SAID:
            if words in line:
                self.counts[f"said: {words.strip()}"] += 1
        if attempt := re.search(r'msg="will be tried again".* error=(".*?(?<!\\)"|\S+)', line):
            self.counts[f"an attempt was spent: {attempt[1]}"] += 1
        died = re.search(r"a child died.* pid=(\d+)", line)
        if died and int(died[1]) not in self.killed or any(words in line for words in NEVER_SAID):
            self.find(f"{name} said: {line}")

    def start_part(self, name):
        more = [] if name == "api" else [f"--api=http://{self.rng.choice(['127.0.0.1', 'localhost'])}:{self.port}"]
        for server in self.away():
            self.counts[f"starts: of {name.split()[0]} while {server} was away"] += 1
        self.parts[name] = Tierd(*self.commands[name], *more, *self.common(), wait=False,
                                 echo=functools.partial(self.hear, name))

    def look_at_parts(self):
        for name, part in self.parts.items():
            if (status := part.process.poll()) is not None:
                self.find(f"{name} ended by itself: {status}")

    def keep_evidence(self):
        """For who looks for the cause: what everybody said, all writes of Redis, all changes of rows."""
        folder = ROOT / "build" / "chaos" / str(self.seed)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, lines in self.lines.items():
            (folder / f"{name.replace(' ', '-')}.log").write_text("\n".join(lines) + "\n")
        with contextlib.suppress(OSError):
            shutil.copytree(self.redis.data, folder / "redis")
        rows = self.db.try_sql("SELECT * FROM history ORDER BY at") or ""
        (folder / "history.tsv").write_text(rows)
        print(f"kept for whoever looks for the cause: {folder}")

    def end_parts(self):
        for part in self.parts.values():
            thaw(part.process.pid, *part.children())
        for part in self.parts.values():
            part.stop(signal.SIGKILL)

    def find(self, text):
        self.findings.append(text)
        say(f"FINDING: {text}")

    # ---- posters ----

    def poster(self, seed):
        rng = random.Random(seed)
        while not self.stop.is_set():
            content = rng.choice(self.contents)
            level = rng.choice(content.levels)
            with content.lock:
                self.post(content, level, LEVELS[level] + rng.randrange(1000))
            time.sleep(rng.random() * 0.03)

    def post(self, content, level, count):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", "/post_sentence", f"cid={content.cid}&count={count}",
                               {"Content-Type": "application/x-www-form-urlencoded"})
            response = connection.getresponse()
            body, status = response.read(), response.status
        except (OSError, http.client.HTTPException):
            body, status = b"", None
        finally:
            connection.close()
        self.counts[f"posts: {'200' if status == 200 else '503' if status == 503 else 'no answer'}"] += 1
        if status == 200:
            if json.loads(body)["target"] != level:
                self.find(f"cid {content.cid}: posted {count}, was told {body}")
            content.wanted = level
            content.answered_at = self.served_at = began
        elif status in (None, 503):
            content.unsure.append((began, level))
        else:
            self.find(f"cid {content.cid}: a post was answered {status} {body}")

    # ---- readers ----

    def reader(self, seed):
        rng = random.Random(seed)
        sql = Sql(self.db)
        try:
            while not self.stop.is_set():
                try:
                    self.read(rng.choice(self.contents), sql)
                except Away:
                    self.counts["reads: database away"] += 1
                    time.sleep(0.1)
        finally:
            sql.close()

    @staticmethod
    def row(content, sql):
        return sql(f"SELECT content_level, update_time FROM contents WHERE cid = {content.cid}")[0]

    def read(self, content, sql):
        row = self.row(content, sql)
        torn = 0
        while True:
            try:
                data = (self.paths[row[0]] / content.name).read_bytes()
                if not content.wrong(data) or not content.is_written or torn == TORN_MAX:
                    break
                torn += 1  # it is read while it is written: nobody promises that the one is whole for the other
            except OSError as error:
                if error.errno not in GONE:
                    raise
                again = self.row(content, sql)
                if again != row:
                    row = again
                    self.counts["reads: moved meanwhile"] += 1
                elif content.is_written and row[0] in FUSE and torn < TORN_MAX:
                    torn += 1
                    self.counts["reads: replaced meanwhile"] += 1
                else:
                    self.find(f"a reader missed: cid {content.cid} is not at {row}: {error}")
                    return
        self.counts["reads: good"] += 1
        if content.wrong(data):
            self.find(f"a reader got {content.wrong(data)}: cid {content.cid} at {row}, {len(data)} bytes")

    # ---- writers ----

    def writer(self, number, seed):
        rng = random.Random(seed)
        sql = Sql(self.db)
        mine = [c for c in self.contents if c.is_written and c.cid // 5 % WRITERS == number]
        try:
            while not self.stop.is_set():
                time.sleep(rng.random() * WRITE_PAUSE_S)
                try:
                    self.write(rng.choice(mine), sql, rng)
                except Away:
                    self.counts["writes: database away"] += 1
                    time.sleep(0.1)
        finally:
            sql.close()

    def write(self, content, sql, rng):
        """A further version of it, where the row says. It counts as durable when fsync says so; by rename, when the row then
        still says what it said: who puts a new file where the content was must know that it is still there."""
        level = self.row(content, sql)[0]
        path = self.paths[level] / content.name
        data = written(content.cid, content.tried + 1)
        by_rename = rng.random() < 0.5
        try:
            if by_rename:
                self.write_by_rename(content, path, data)
            else:
                self.write_in_place(content, path, data, rng)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.counts["writes: moved meanwhile"] += 1
            return
        if by_rename and self.row(content, sql)[0] != level:
            self.counts["writes: by rename, moved meanwhile"] += 1
            return
        content.durable = content.tried
        self.counts[f"writes: {'by rename' if by_rename else 'in place'}"] += 1

    @staticmethod
    def write_in_place(content, path, data, rng):
        fd = os.open(path, os.O_WRONLY)
        try:
            if rng.random() < 0.2:
                time.sleep(rng.random() * OPEN_S)
            content.tried += 1
            os.pwrite(fd, data, 0)
            os.fsync(fd)
            if rng.random() < 0.2:
                time.sleep(rng.random() * OPEN_S)
        finally:
            os.close(fd)

    @staticmethod
    def write_by_rename(content, path, data):
        fresh = path.with_name(f"{content.cid}.new")
        with open(fresh, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        try:
            path.stat()
            content.tried += 1
            fresh.rename(path)
        finally:
            fresh.unlink(missing_ok=True)

    # ---- what breaks things ----

    def kill_child(self, names):
        part = self.parts[self.rng.choice(names)]
        if children := part.children():
            self.killed.add(pid := self.rng.choice(children))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @staticmethod
    def stop_for(pid, seconds):
        """It stands still, others go on meanwhile."""
        with contextlib.suppress(ProcessLookupError), frozen(pid):
            time.sleep(seconds)

    def stop_child(self, names):
        part = self.parts[self.rng.choice(names)]
        if children := part.children():
            self.stop_for(self.rng.choice(children), self.rng.uniform(0.5, 2.5) * LEASE_S)

    def restart_part(self, names, sig):
        """It ends, and is started again, at times of a list that has nothing else."""
        name = self.rng.choice(names)
        self.carry_out(self.restart_steps(name, sig, 0, self.rng.random()))

    def restart_steps(self, name, sig, end_at, start_at):
        told_at = None

        def end():
            nonlocal told_at
            told_at = time.monotonic()
            self.parts[name].process.send_signal(sig)

        def start():
            part = self.parts[name]
            status = part.process.poll()
            if status is None and time.monotonic() - told_at < STOPS_S:
                return AGAIN_S  # it drains
            was_there = part.lines or sig == signal.SIGKILL  # who has not said a word may have been too young to hear
            if status is None or status not in ((-sig,) if sig == signal.SIGKILL else (0,) if was_there else (0, -sig)):
                self.find(f"{name} was told to stop by {sig.name}: {status}")
                part.stop(signal.SIGKILL)
            self.start_part(name)
            return None
        return [(end_at, None, end), (start_at, None, start)]

    def away(self):
        return [name for name, server in (("redis", self.redis), ("mariadb", self.db)) if server.process.poll() is not None]

    def outage(self):
        """Of one server or both; parts of tierd end and start meanwhile."""
        steps = outages.plan(self.redis, self.db, self.rng)
        over = max(when for when, *_ in steps)
        for name in self.rng.sample(list(self.commands), self.rng.choice([0, 0, 1, 2, 3])):
            sig = self.rng.choice([signal.SIGKILL, signal.SIGTERM])
            times = sorted(self.rng.uniform(0, over) for _ in range(2))
            steps += self.restart_steps(name, sig, *times)
        self.carry_out(steps)
        self.redis.wait()
        self.db.wait()
        if self.rng.random() < WAITS_FOR_ALL:
            self.all_works_again()

    def carry_out(self, steps):
        """Each at its time, or as soon as the one before it has been done; one that says so is tried again so much later."""
        began = time.monotonic()
        due = [(when, n, what, act) for n, (when, what, act) in enumerate(steps)]
        heapq.heapify(due)
        while due:
            when, n, what, act = heapq.heappop(due)
            time.sleep(max(0.0, began + when - time.monotonic()))
            others = [name for name in self.away() if what and name not in what]
            if what:
                self.counts[f"outages: {' while '.join([what, *[f'{name} was away' for name in others]])}"] += 1
            again_s = act()
            if again_s:
                heapq.heappush(due, (time.monotonic() - began + again_s, n, what, act))

    def cut(self):
        """All connections of both servers end."""
        self.redis.cli("CLIENT", "KILL", "TYPE", "normal")
        self.db.sql("KILL USER tierd")

    # ---- whether all works ----

    def healthy(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            return response.status == 200, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return False, repr(error)
        finally:
            connection.close()

    def what_fails(self, since, finished, committed):
        """What has not worked since then, or ''."""
        for _ in range(HEALTHS):
            good, said = self.healthy()
            if not good:
                return f"/health answers {said}"
        if self.served_at <= since:
            return "no post is answered 200"
        if self.last_commit() == committed:
            return "nothing is committed"
        return ", ".join(f"{name} finishes nothing" for name in self.commands if name != "api" and
                         self.finished[name] == finished[name])

    def last_commit(self):
        return self.db.sql("SELECT MAX(update_time) FROM contents")

    def all_works_again(self):
        since, finished, committed = time.monotonic(), self.finished.copy(), self.last_commit()
        while what := self.what_fails(since, finished, committed):
            self.look_at_parts()
            if self.findings:
                return
            if time.monotonic() - since > RECOVERS_S:
                self.find(f"{RECOVERS_S} s after the servers were well again: {what}")
            time.sleep(AGAIN_S)
        self.longest_s = max(self.longest_s, time.monotonic() - since)
        self.counts["all worked again"] += 1

    def break_things(self):
        """In the main thread: what a thread starts ends with that thread (PR_SET_PDEATHSIG)."""
        workers = [n for n in self.commands if n != "api"]
        faults = [  # weight, name, what
            (8, "kill a worker child", lambda: self.kill_child(workers)),
            (5, "stop a worker child past its lease or nearly", lambda: self.stop_child(workers)),
            (2, "kill a worker's supervisor", lambda: self.restart_part(workers, signal.SIGKILL)),
            (1, "restart a worker", lambda: self.restart_part(workers, signal.SIGTERM)),
            (4, "kill an API child", lambda: self.kill_child(["api"])),
            (2, "kill the API's supervisor", lambda: self.restart_part(["api"], signal.SIGKILL)),
            (2, "stop an API child", lambda: self.stop_child(["api"])),
            (12, "an outage of Redis, MariaDB, or both", self.outage),
            (1, "cut all connections to Redis and MariaDB", self.cut),
            (1, "stop Redis", lambda: self.stop_for(self.redis.process.pid, self.rng.uniform(0.2, 3))),
            (1, "stop MariaDB", lambda: self.stop_for(self.db.process.pid, self.rng.uniform(0.2, 3))),
            (1, "flush Redis' scripts", lambda: self.redis.cli("SCRIPT", "FLUSH")),
        ]
        weights, names, acts = zip(*faults)
        while time.monotonic() < self.ends_at and not self.findings:
            time.sleep(self.rng.uniform(0.05, 0.5))
            i = self.rng.choices(range(len(faults)), weights)[0]
            self.counts[f"faults: {names[i]}"] += 1
            acts[i]()
            self.look_at_parts()

    # ---- the whole ----

    def guarded(self, function, *args):
        def body():
            try:
                function(*args)
            except Exception as error:  # pylint: disable=broad-except  # a thread that dies is a finding
                self.find(f"{function.__name__} ended: {error!r}")
        return threading.Thread(target=body, daemon=True, name=function.__name__)

    def run(self):
        threads = [self.guarded(self.poster, self.rng.random()) for _ in range(POSTERS)]
        readers = [self.guarded(self.reader, self.rng.random()) for _ in range(READERS)]
        readers += [self.guarded(self.writer, n, self.rng.random()) for n in range(WRITERS)]
        self.ends_at = time.monotonic() + self.seconds
        for thread in (*threads, *readers):
            thread.start()
        try:
            self.break_things()
            say("the faults have ended")
            self.all_works_again()
        finally:
            self.stop.set()
        for thread in (*threads, *readers):
            thread.join(30)
            if thread.is_alive():
                self.find(f"{thread.name} hangs")
        self.settle()
        self.judge()
        return not self.findings

    def settle(self):
        """Until no job waits any more."""
        redis = Resp(self.redis.address, 1)
        deadline = time.monotonic() + SETTLE_S
        while redis("ZCARD", "tierd:due"):
            if time.monotonic() > deadline:
                self.find(f"jobs are still under way: {redis('ZRANGE', 'tierd:due', '0', '-1', 'WITHSCORES')}")
                break
            time.sleep(0.1)
        if locks := redis("KEYS", "lock:*"):
            self.find(f"locks are left: {locks}")
        if parked := redis("KEYS", "tierd:parked:*"):
            self.find(f"jobs are parked though nothing is paused: {parked}")
        for key in redis("KEYS", "tierd:job:*"):
            if redis("HGET", key, "state") not in ("dead", "conflict"):
                self.find(f"nobody looks after {key}: {redis('HGETALL', key)}")
        redis.close()
        say("no job waits any more")

    def judge(self):
        redis = Resp(self.redis.address, 1)
        rows = {int(cid): level for cid, level in self.db.sql("SELECT cid, content_level FROM contents")}
        for content in self.contents:
            self.judge_one(content, rows[content.cid], redis("GET", content.cid), redis)
        known = {content.name for content in self.contents}
        for path in self.paths.values():
            for found in path.rglob("*"):
                if found.is_file() and found.name != ".tierd-level" and str(found.relative_to(path)) not in known:
                    self.find(f"left behind: {found}")
        redis.close()

    def judge_file(self, content, kind, is_the_one, told):
        data = (self.paths[kind] / content.name).read_bytes()
        if content.wrong(data):
            self.find(f"not what it was at {kind}: {content.wrong(data)}; {told}")
        elif content.is_written:
            version = version_of(data)
            told = f"version {version} at {kind}, {content.durable} was durable, {content.tried} tried; {told}"
            if is_the_one and not content.durable <= version <= content.tried:
                self.find(f"a write was lost: {told}")
            self.counts["ends: written, the last version stands" if is_the_one else "ends: written, another version is left"] += 1

    @staticmethod
    def may_end_so(content, error):
        return SAME in error or error == DIED or (error == DIFFERS and content.is_written)

    def judge_one(self, content, level, text, redis):
        at = [kind for kind, path in self.paths.items() if kind == the_one(kind) and (path / content.name).exists()]
        job = json.loads(text) if text else {}
        told = f"cid {content.cid}: row {level}, files at {at}, wanted {content.wanted}, job {text}, " \
               f"hash {redis('HGETALL', f'tierd:job:{content.cid}')}"
        late = {target for when, target in content.unsure if when > content.answered_at - LATE_S}
        if the_one(level) not in at or len(at) > 1 and not content.is_written:
            self.find(f"not exactly once at its level; {told}")
        for kind in at:
            self.judge_file(content, kind, kind == the_one(level), told)
        if SAME in job.get("error", "") and {job["db_level"], job["target"]} != {*PAIR}:
            self.find(f"refused without a reason; {told}")
        if content.levels == PAIR and job.get("status") == "done" and level != job["db_level"]:
            self.find(f"moved, though both levels show the same file; {told}")
        if job.get("status") in ("dead", "conflict"):
            self.counts[f"ends: {job['status']}: {job.get('error')}"] += 1
            if not self.may_end_so(content, job.get("error", "")):
                self.find(f"given up for no good reason; {told}")
        elif content.wanted in (None, level):
            self.counts["ends: where the last answered post says"] += 1
        elif level in late:
            self.counts["ends: where a later post without an answer says"] += 1
        else:
            self.find(f"not where the last post says; {told}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("mounting needs root")
        return 1
    print(f"seed {args.seed}, {args.seconds:g} s (SEED={args.seed} SECONDS={args.seconds:g} for the same choices)", flush=True)

    def interrupt(*_):
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, signal.SIG_IGN)
        raise KeyboardInterrupt

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, interrupt)
    chaos, good = None, False
    try:
        with contextlib.ExitStack() as stack:
            folder = short_dir("tierd-chaos.")
            stack.callback(shutil.rmtree, folder, True)
            folder.chmod(0o755)
            chaos = Chaos(args.seed, args.seconds, folder, stack)
            say(f"started; posts and faults begin; {chaos.redis.url}, {chaos.db.url}")
            good = chaos.run()
            if not good:
                chaos.keep_evidence()
    except KeyboardInterrupt:
        print("interrupted; all is ended and unmounted")
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"failed: {error}")
    if chaos:
        print(f"all worked again within {chaos.longest_s:.1f} s")
        for name, count in sorted(chaos.counts.items()):
            print(f"{count:>8}  {name}")
        for finding in chaos.findings:
            print(f"finding: {finding}")
    print(f"seed {args.seed}: {len(chaos.findings) if chaos else 0} findings")
    print("1 passed, 0 failed" if good else "0 passed, 1 failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
