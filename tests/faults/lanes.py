"""Lanes: independent tierd fleets on shared servers, so that many fault runs go on at once.

A lane has a Redis database number of its own, its own processes, and a folder of its own in every level; it is a
process of its own as well. A run puts one content through one operation with one fault, and ends with the oracle of
PROTOCOL.md: the content whole at the level that the database names, at every moment that we look and at the end;
exactly once; the level what the last post says (or dead or conflict with a reason); no temporary name; no key left.
"""
import contextlib
import dataclasses
import hashlib
import http.client
import json
import multiprocessing
import os
import pathlib
import queue as queues
import signal
import subprocess
import time
import traceback

from harness.pipes import Resp, Sql
from harness.servers import TIERD, Failed, Tierd
from harness.shorten import Shorten
from harness.strace import Strace
from mounts import BRANCH, LINKS, MIN_COUNTS, NEAR, NEITHER, POOL, RENAMES

FIRST_DB = 2       # the lanes' Redis databases; the shared site has 1
LANES = 8
LIMIT_S = 60       # for a run that hangs; a good one takes one or two
LAST_CALLS_S = 1   # what a child calls after its job is finished, until it sleeps again
LEASE = "600ms"
DRAIN_S = 20       # --drain-timeout; these moves take a fraction of it
COUNTS = {"gold": 2500, "silver": 1500, "bronze": 1, **MIN_COUNTS}


# Signals that end a child, and how the supervisor says so.
ENDS = {"signal=KILL": "killed by signal 9", "signal=TERM": "exited with status 0"}


def soon(condition):
    """Whether it comes true within the time that the last calls take."""
    deadline = time.monotonic() + LAST_CALLS_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@dataclasses.dataclass(frozen=True)
class Case:
    """One run: `expressions` are strace's, `call` and `ordinal` say where the fault is."""
    scenario: str
    call: str
    ordinal: int
    fault: str
    more: tuple = ()

    @property
    def expressions(self):
        return (f"inject={self.call}:{self.fault}:when={self.ordinal}", *self.more)

    def attach(self, pid):
        scenario = SCENARIOS[self.scenario]
        return Strace(pid, f"trace={','.join({self.call, *scenario.refused})}", *scenario.always, *self.expressions)

    def was_reached(self, process, trace):
        """Whether the fault has happened; the last calls are made when the job is finished already."""
        if self.fault not in ENDS:
            trace.detach()
            return any("(INJECTED" in rest for call, rest in trace.calls() if call == self.call)
        return soon(lambda: process.count(ENDS[self.fault]) > 0)

    def meanwhile(self, lane, process, pid, trace):
        """What is to be done while the operation goes on."""

    def __str__(self):
        return f"{self.scenario}: {self.fault} at {self.call} #{self.ordinal}"


class Stop(Case):
    """SIGTERM to the whole service, as `systemctl stop` or a person sends it to the supervisor: it reaches the child, which
    strace holds at a call. Then another service ends what is left of the move."""

    def attach(self, pid):
        return Strace(pid, f"trace={self.call}", f"inject={self.call}:signal=STOP:when={self.ordinal}")

    def meanwhile(self, lane, process, pid, trace):
        lane.wait(lambda: trace.held() or lane.is_quiet(), f"{self.call} or the end of the job")
        if not soon(trace.held):
            trace.detach()  # or it is held by the last calls, when nobody waits for that
        process.process.send_signal(signal.SIGTERM)
        lane.wait(lambda: is_pending(pid, signal.SIGTERM), "the signal at the child")
        lane.wait(lambda: has_ended(process, pid), "the end of the service", limit=DRAIN_S)
        process.reader.join()
        ended_well = not trace.held() or trace.ended_well()
        if process.process.returncode != 0 or process.count("drain time-out is over") or not ended_well:
            raise Broken(f"no clean stop; {lane.tell()}")
        if process.count("will be tried again"):
            raise Broken(f"taken for an error; {lane.tell()}")
        for _ in lane.each_content():
            lane.judge_given_back()
        lane.start_worker()

    def was_reached(self, process, trace):
        return trace.held()

    def __str__(self):
        return f"{self.scenario}: stopped at {self.call} #{self.ordinal}"


class End(Case):
    """SIGTERM to the child alone, at a call; the supervisor puts another in its place. What an API child has taken, it answers
    before it ends."""

    def meanwhile(self, lane, process, pid, trace):
        if lane.unanswered:
            raise Broken(f"a post was taken and not answered; {lane.tell()}")


def the_one(level):
    """A file in these two levels is one file: this is where it lies."""
    return BRANCH if level == POOL else level


def has_ended(process, child):
    """Whether all of the service has ended; a child that is held goes on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGCONT)
    return process.process.poll() is not None


def is_pending(pid, number):
    """Whether the signal waits for a process that is held; or the process has ended of it."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


class Short(Case):
    """A call that transfers less than it was asked for; ordinal 0: each of them. `fault` is how much less."""

    def attach(self, pid):
        return Shorten(pid, self.call, self.fault, self.ordinal)

    def was_reached(self, process, trace):
        """A short count is no error: the job is not put off for it, and no attempt is counted."""
        trace.detach()
        said = [line for line in process.lines if "will be tried again" in line or "put off" in line]
        if said:
            raise Broken(f"a short count was taken for an error: {said}")
        return trace.short() > 0

    def __str__(self):
        return f"{self.scenario}: {self.call} #{self.ordinal or 'all'} cut to {self.fault}"


@dataclasses.dataclass
class Outcome:
    case: Case
    reached: bool
    status: str = ""   # of the job at the end
    failure: str = ""
    seconds: float = 0


class Broken(Exception):
    """The oracle says no."""


@dataclasses.dataclass(frozen=True)
class Content:
    cid: int
    name: str
    hash: str


def dict_of(flat):
    """A hash as Redis tells it: field, value, field ..."""
    return dict(zip(flat[::2], flat[1::2]))


class Lane:
    def __init__(self, site, number):
        self.site, self.number = site, number
        self.db_number = FIRST_DB + number
        self.redis = Resp(site.redis.address, self.db_number)
        self.sql = Sql(site.db)
        self.last_cid = 1_000_000 * (number + 1)
        self.contents = []   # what the operation is about
        self.content = None  # the one of them that is looked at
        self.noted = False   # an attribute was set on the source
        self.foreign = {}    # level -> hash of somebody else's file that has its name there
        self.unanswered = False  # whether a post had its effect without an answer
        self.running = []
        self.api = None

    @property
    def cid(self):
        return self.content.cid

    @property
    def name(self):
        return self.content.name

    # ---- parts ----

    def common(self):
        return [f"--redis={self.site.redis.url_of(self.db_number)}", f"--db={self.site.db.url}"]

    def start(self, *args):
        process = Tierd(*args, *self.common())
        self.running.append(process)
        return process

    def start_api(self):
        self.api = self.start("--role=api", "--listen=127.0.0.1:0")
        return self.api

    def start_worker(self, *args):
        return self.start("--role=worker", f"--api=http://{self.api.address}", "--workers=1", f"--lease={LEASE}",
                          "--scan-interval=1h", f"--drain-timeout={DRAIN_S}s", *[f"--root={r}" for r in self.site.roots], *args)

    def stop(self, *processes):
        for process in processes or list(reversed(self.running)):
            process.stop()
            self.running.remove(process)

    def close(self):
        self.stop()
        self.redis.close()
        self.sql.close()

    def wait(self, condition, what, limit=LIMIT_S, watch=True):
        """Polls; every time also looks whether a reader would find the content whole."""
        deadline = time.monotonic() + limit
        while not (value := condition()):
            if watch:
                self.look()
            if time.monotonic() > deadline:
                raise Broken(f"{what} did not happen in {limit} s; {self.tell()}")
            time.sleep(0.005)
        return value

    def tell(self):
        job = self.redis("HGETALL", f"tierd:job:{self.cid}")
        places = [level for level, path in self.site.paths.items() if (path / self.name).exists()]
        logs = [line for p in self.running for line in p.lines[-12:]]
        return (f"job {self.redis('GET', self.cid)}, hash {job}, row {self.level()}, files at {places}\n"
                + "\n".join(logs))

    def wait_idle(self):
        """The worker's child sleeps in Redis."""
        mark = f" db={self.db_number} "
        self.wait(lambda: any(mark in line and "cmd=blpop" in line
                              for line in self.redis("CLIENT", "LIST").splitlines()), "an idle worker", watch=False)

    # ---- contents ----

    def add(self, level, data, xattr=True, beside=False):
        """A new content, in a folder of its own so that directories are made, too; or `beside` the one before."""
        self.last_cid += 1
        folder = pathlib.Path(self.name).parent if beside else pathlib.Path(f"lane{self.number}", str(self.last_cid))
        name = str(folder / f"{self.last_cid}.bin")
        path = self.site.paths[the_one(level)] / name
        path.parent.mkdir(parents=True, exist_ok=beside)
        with open(path, "wb") as f:
            for at, chunk in data:
                f.seek(at)
                f.write(chunk)
        self.noted = xattr
        if xattr:
            os.setxattr(path, "user.note", b"kept")
        self.sql("INSERT INTO contents (cid, content_level, filename) "
                 f"VALUES ({self.last_cid}, '{level}', '{name}')")
        self.foreign = {}
        self.content = Content(self.last_cid, name, hashlib.sha256(path.read_bytes()).hexdigest())
        self.contents = [*self.contents, self.content] if beside else [self.content]

    def each_content(self):
        """Looks at one after the other."""
        for self.content in self.contents:
            yield self.content

    def hash(self, level):
        return hashlib.sha256((self.site.paths[level] / self.name).read_bytes()).hexdigest()

    def level(self):
        return self.sql(f"SELECT content_level FROM contents WHERE cid = {self.cid}")[0][0]

    def look(self):
        """What a reader would find at this moment, of all contents."""
        kept = self.content
        for _ in self.each_content():
            self.look_at_one()
        self.content = kept

    def look_at_one(self):
        """I1 and I5: whole where the row says; and whole wherever its name stands."""
        for _ in range(20):
            at = self.level()
            try:
                if self.hash(at) != self.content.hash:
                    raise Broken(f"the content at {at} is not what it was; {self.tell()}")
                break
            except FileNotFoundError:
                if self.level() == at:
                    raise Broken(f"nothing stands at {at}, where the row says; {self.tell()}") from None
        for level in self.site.paths:
            try:
                if self.hash(level) != self.foreign.get(level, self.content.hash):
                    raise Broken(f"a part of the content stands at {level}; {self.tell()}")
            except FileNotFoundError:
                pass

    def post(self, level, timeout=10):
        """The status, or None when no answer came."""
        return self.request("/post_sentence", f"cid={self.cid}&count={COUNTS[level]}", timeout)

    def request(self, path, body, timeout=10):
        host, port = self.api.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded"})
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    # ---- the end of a run ----

    def finished(self):
        text = self.redis("GET", self.cid)
        if not text or json.loads(text)["status"] == "update":
            self.hurry()
            return False
        if json.loads(text)["status"] in ("dead", "conflict"):
            return self.redis("ZSCORE", "tierd:due", self.cid) is None
        if self.redis("EXISTS", f"tierd:job:{self.cid}") == 0:
            return True
        self.hurry()
        return False

    def is_quiet(self):
        """Nothing is waited for and nothing held."""
        return not any(self.redis("ZCARD", key) for key in ("tierd:due", "tierd:parked:@all"))

    def judge_given_back(self):
        """After a clean stop nobody has to find out that a worker is gone: the job is finished, or free at once, and
        nothing was counted against it."""
        job = dict_of(self.redis("HGETALL", f"tierd:job:{self.cid}"))
        due = self.redis("ZSCORE", "tierd:due", self.cid)
        self.look()
        if self.redis("EXISTS", f"lock:{self.cid}") or "worker" in job:
            raise Broken(f"still claimed; {self.tell()}")
        if any(int(job.get(count, 0)) for count in ("attempts", "crashes")):
            raise Broken(f"counted; {self.tell()}")
        waits = json.loads(self.redis("GET", self.cid) or '{"status": ""}')["status"] == "update"
        if (bool(job) or waits) != (due is not None):  # what was never claimed has no hash yet
            raise Broken(f"neither finished nor given back; {self.tell()}")
        if due and self.redis("LLEN", "tierd:wake") == 0:
            raise Broken(f"a worker that sleeps would not hear of it; {self.tell()}")
        self.judge_clean()

    def judge_clean(self):
        left = [str(p) for path in self.site.paths.values() for p in (path / self.name).parent.glob(".tierd-*")]
        if left:
            raise Broken(f"left behind: {left}; {self.tell()}")

    def hurry(self):
        """What waits for its next attempt is due now; leases are left to run out."""
        due = self.redis("ZSCORE", "tierd:due", self.cid)
        if due and self.redis("EXISTS", f"lock:{self.cid}") == 0:
            self.redis("ZADD", "tierd:due", "XX", "1", self.cid)
            self.redis("LPUSH", "tierd:wake", "1")
            self.redis("LTRIM", "tierd:wake", "0", "0")

    def judge(self, source, target, stood=()):
        """The oracle once all is quiet; the status of the job: of the first that is not done, if there are several."""
        for _ in self.each_content():
            self.wait(self.finished, "the end of the job")
        statuses = [self.judge_one(source, target, stood) for _ in self.each_content()]
        return next((status for status in statuses if status != "done"), "done")

    def judge_one(self, source, target, stood):
        """A job that is given up leaves what `stood` elsewhere."""
        self.look()
        job = json.loads(self.redis("GET", self.cid))
        status, level = job["status"], the_one(self.level())
        at = [name for name, path in self.site.paths.items() if (path / self.name).exists() and name == the_one(name)]
        for foreign in self.foreign:
            if foreign not in at:
                raise Broken(f"somebody else's file at {foreign} is gone; {self.tell()}")
        if status == "done" and (level, at) != (the_one(target), [the_one(target)]):
            raise Broken(f"done, but not once and alone at {target}; {self.tell()}")
        if status == "done" and self.noted and os.getxattr(self.site.paths[target] / self.name, "user.note") != b"kept":
            raise Broken(f"its attribute is lost; {self.tell()}")
        if status in ("dead", "conflict") and (level not in map(the_one, (source, target)) or {*at} != {level, *stood} or not job.get("error")):
            raise Broken(f"{status}, but not as it was; {self.tell()}")
        self.judge_clean()
        if self.redis("EXISTS", f"lock:{self.cid}") or self.redis("ZSCORE", "tierd:due", self.cid):
            raise Broken(f"a lock or an entry is left; {self.tell()}")
        return status


# ---- the operations ----

TINY = [(0, os.urandom(700))]
SMALL = [(0, os.urandom(70000))]
HOLES = [(0, b"begin" * 1000), (300000, b"middle" * 1000), (800000, b"end" * 1000)]


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    source: str
    target: str
    data: tuple
    traced: str        # worker, post, update: whose calls are counted
    refused: tuple = ()  # calls that answer EPERM throughout; a fault at one of them takes its place

    @property
    def stood(self):
        """Where a copy stands from the beginning, besides the source."""
        return ()

    @property
    def always(self):
        return tuple(f"inject={call}:error=EPERM" for call in self.refused)

    def prepare(self, lane):
        """Everything up to the operation; what strace is to be attached to."""
        lane.add(self.source, self.data, xattr=self.source != NEITHER)
        if self.traced == "worker":
            if not lane.api:
                lane.start_api()
            worker = lane.start_worker()
            lane.wait_idle()
        else:
            lane.start_api()
            if self.traced == "update" and lane.post(self.target) != 200:
                raise Broken("the post before the update was refused")
            lane.wait(lambda: lane.request("/update_sentence", f"cid={lane.cid}") == 409, "an answer", watch=False)
            worker = lane.api
        return worker, worker.children()[0]

    def operate(self, lane):
        """The operation itself; what a post was answered, None when it was not."""
        if self.traced == "update":
            lane.start_worker()
            return 200
        answer, lane.unanswered = lane.post(self.target), False
        if self.traced == "post" and answer != 200:
            self.settle_post(lane)
        if self.traced == "post":
            lane.start_worker()
        return answer

    def settle_post(self, lane):
        """A post that was not answered: record and index stand together or not at all; then it is posted again."""
        keys = [lane.redis("EXISTS", lane.cid), int(lane.redis("ZSCORE", "tierd:due", lane.cid) is not None)]
        if keys not in ([0, 0], [1, 1]):
            raise Broken(f"half a job: JSON, index: {keys}")
        lane.unanswered = keys[0] == 1
        lane.wait(lambda: lane.post(self.target) == 200, "the second post", watch=False)

    def clean(self, lane):
        if self.traced == "worker":
            lane.stop(*[p for p in lane.running if p is not lane.api])
        else:
            lane.stop()
            lane.api = None


class Adoption(Scenario):
    """An identical file stands at the target already."""

    @property
    def stood(self):
        return (self.target,)

    def prepare(self, lane):
        traced = super().prepare(lane)
        path = lane.site.paths[self.target] / lane.name
        path.parent.mkdir(parents=True)
        path.write_bytes((lane.site.paths[self.source] / lane.name).read_bytes())
        return traced


class Obstacle(Scenario):
    """Another file of the same length stands at the target, the same but for its last byte."""

    @property
    def stood(self):
        return (self.target,)

    def prepare(self, lane):
        traced = super().prepare(lane)
        data = bytearray((lane.site.paths[self.source] / lane.name).read_bytes())
        data[-1] ^= 1
        path = lane.site.paths[self.target] / lane.name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        lane.foreign = {self.target: lane.hash(self.target)}
        return traced


class Alias(Scenario):
    """Both levels show the same file: it is the source, and looks like a copy that stands at the target."""

    def operate(self, lane):
        # a busy machine may answer 503: nothing is injected into the API
        lane.wait(lambda: lane.post(self.target) == 200, "a post is taken")
        return 200


class AliasedSpare(Scenario):
    """`tierd check` took it for a second copy, and hands it over: there is nothing to move, and nothing to take away."""

    def operate(self, lane):
        shown = BRANCH if self.source == POOL else POOL
        job = {"cid": str(lane.cid), "count": str(COUNTS[self.source]), "target": self.source, "db_level": self.source,
               "filename": lane.name, "worker_id": None, "status": "done"}
        lane.redis("SET", lane.cid, json.dumps(job))
        lane.redis("HSET", f"tierd:job:{lane.cid}", "state", "cancelled", "src", self.source, "target", self.source,
                   f"spare:{shown}", "0")
        lane.redis("ZADD", "tierd:due", "1", lane.cid)  # as the script does it
        lane.hurry()
        return 200


class Group(Scenario):
    """Three jobs in one folder that are ready together: a child claims one, then the two others as a group."""

    def prepare(self, lane):
        traced = super().prepare(lane)
        for data in (TINY, HOLES):
            lane.add(self.source, data, beside=True)
        lane.redis("HSET", "tierd:paused", "@all", "0")
        for _ in lane.each_content():  # a busy machine may answer 503: nothing is injected yet
            lane.wait(lambda: lane.post(self.target) == 200, "a post is taken", watch=False)
        lane.wait(lambda: lane.redis("ZCARD", "tierd:parked:@all") == len(lane.contents), "the gate", watch=False)
        lane.wait_idle()
        return traced

    def operate(self, lane):
        subprocess.run([TIERD, "resume", *lane.common()], check=True, capture_output=True)
        return 200


SCENARIOS = {s.name: s for s in (
    Scenario("copy", "bronze", "gold", tuple(SMALL), "worker"),
    Scenario("link", "bronze", "silver", tuple(SMALL), "worker"),
    Scenario("holes", "bronze", "gold", tuple(HOLES), "worker"),
    Scenario("tiny", "bronze", "gold", tuple(TINY), "worker"),
    Scenario("near", "bronze", NEAR, tuple(SMALL), "worker"),
    Scenario("near holes", "bronze", NEAR, tuple(HOLES), "worker"),
    Scenario("near tiny", "bronze", NEAR, tuple(TINY), "worker"),
    Scenario("into links", "bronze", LINKS, tuple(SMALL), "worker"),
    Scenario("out of links", LINKS, "bronze", tuple(SMALL), "worker"),
    Scenario("into renames", "bronze", RENAMES, tuple(SMALL), "worker", ("linkat",)),
    Scenario("out of renames", RENAMES, "gold", tuple(SMALL), "worker"),
    Scenario("out of neither", NEITHER, "bronze", tuple(SMALL), "worker"),
    Group("group", "bronze", "gold", tuple(SMALL), "worker"),
    Group("group link", "bronze", "silver", tuple(SMALL), "worker"),
    Alias("into the pool", BRANCH, POOL, tuple(SMALL), "worker"),
    Alias("out of the pool", POOL, BRANCH, tuple(SMALL), "worker"),
    AliasedSpare("spare in the pool", BRANCH, BRANCH, tuple(SMALL), "worker"),
    AliasedSpare("spare in the branch", POOL, POOL, tuple(SMALL), "worker"),
    Adoption("adopt", "bronze", "gold", tuple(SMALL), "worker"),
    Obstacle("conflict", "bronze", "gold", tuple(SMALL), "worker"),
    Scenario("post", "bronze", "silver", tuple(SMALL), "post"),
    Scenario("update", "bronze", "silver", tuple(SMALL), "update"),
)}


def record(lane, scenario, more=()):
    """The calls of one undisturbed operation, in order."""
    _, pid = scenario.prepare(lane)
    try:
        with Strace(pid, *scenario.always, *more) as trace:
            if scenario.operate(lane) != 200:
                raise Broken("the post was refused")
            lane.judge(scenario.source, scenario.target, scenario.stood)
            if scenario.traced == "worker":
                lane.wait(lambda: trace.calls()[-1][0] == "ppoll", "sleep", watch=False)
            trace.detach()
            return trace.calls()
    finally:
        scenario.clean(lane)


def run(lane, case):
    """One run with one fault."""
    scenario = SCENARIOS[case.scenario]
    started = time.monotonic()
    outcome = Outcome(case, False)
    try:
        process, pid = scenario.prepare(lane)
        with case.attach(pid) as trace:
            scenario.operate(lane)
            case.meanwhile(lane, process, pid, trace)
            outcome.status = lane.judge(scenario.source, scenario.target, scenario.stood)
            outcome.reached = case.was_reached(process, trace)
    except (Broken, Failed, OSError, subprocess.SubprocessError) as error:
        outcome.failure = str(error) or traceback.format_exc()
    except Exception:  # pylint: disable=broad-except  # a lane must report, whatever it is
        outcome.failure = traceback.format_exc()
    finally:
        scenario.clean(lane)
        if outcome.failure:
            lane.redis("FLUSHDB")  # what is left of it must not fail the next run, too
    outcome.seconds = time.monotonic() - started
    return outcome


# ---- many at once ----

def _serve(site, number, todo, done):
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    lane = Lane(site, number)
    try:
        lane.redis("FLUSHDB")
        for path in site.paths.values():
            (path / f"lane{number}").mkdir(exist_ok=True)  # two levels may show one
        while (item := todo.get()) is not None:
            function, argument = item
            try:
                done.put((argument, function(lane, *argument)))
            except Exception:  # pylint: disable=broad-except
                done.put((argument, traceback.format_exc()))
    except KeyboardInterrupt:
        pass
    finally:
        lane.close()


class Lanes:
    """A pool of lanes; `with` ends them and all that they started."""

    def __init__(self, site, count=LANES):
        context = multiprocessing.get_context("fork")
        self.todo, self.done = context.Queue(), context.Queue()
        self.processes = [context.Process(target=_serve, args=(site, n, self.todo, self.done)) for n in range(count)]

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, kind, *_):
        for process in self.processes:
            if kind:
                process.terminate()
            else:
                self.todo.put(None)
        for process in self.processes:
            process.join(120)
            if process.is_alive():
                process.kill()

    def each(self, function, arguments):
        """Yields (argument, result) as they come."""
        arguments = [a if isinstance(a, tuple) else (a,) for a in arguments]
        for argument in arguments:
            self.todo.put((function, argument))
        for _ in arguments:
            while True:
                try:
                    yield self.done.get(timeout=5)
                    break
                except queues.Empty:
                    if not any(p.is_alive() for p in self.processes):
                        raise Failed("all lanes have died") from None
