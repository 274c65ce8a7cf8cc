"""What the rows of the fault matrix share: a child held at a known call, and the oracle for one content."""
import contextlib
import os
import pathlib
import signal
import subprocess

from conftest import sha, wait_until
from harness.servers import TIERD
from harness.strace import Strace

# Where a child that makes a copy can be held: after which call, and what is true then.
COPIED = "fchmod:signal=STOP:when=1"      # the data is in the unnamed file
DURABLE = "fsync:signal=STOP:when=1"      # and durable, not yet announced
STANDS = "linkat:signal=STOP:when=1"      # it has its name
COMMITTING = "connect:signal=STOP:when=1"  # done, the API is being called
RENAMED = "renameat2:signal=STOP:when=1"  # committed, the old copy has its private name


@contextlib.contextmanager
def held(worker, expression, start, *more):
    """Calls `start`, waits until the only child stands still there; afterwards it goes on. `more` for strace."""
    child, = worker.children()
    with Strace(child, f"trace={expression.split(':')[0]}", f"inject={expression}", *more) as trace:
        start()
        try:
            wait_until(trace.held, timeout=60, what=f"the child is held at {expression}")
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGCONT)


def content(site, cid=1, level="bronze", data=None):
    """A content of one small file; its name and hash."""
    site.add(cid, f"{cid}.bin", level, data if data is not None else os.urandom(100000))
    return f"{cid}.bin", sha(site.paths[level] / f"{cid}.bin")


def count_changes(site):
    """From now on every change of a row of `contents` is counted, in the same transaction."""
    site.db.sql("CREATE TABLE changes (cid BIGINT UNSIGNED) ENGINE=InnoDB")
    site.db.sql("CREATE TRIGGER changed AFTER UPDATE ON contents FOR EACH ROW INSERT INTO changes VALUES (NEW.cid)")


def changes(site, cid):
    return int(site.db.sql(f"SELECT COUNT(*) FROM changes WHERE cid = {cid}")[0][0])


def settled(site, cid, name, level, digest, timeout=60):
    """The oracle: alone and whole at its level, the job finished, nothing left behind."""
    site.wait_moved(cid, name, level, timeout)
    wait_until(lambda: site.redis.cli("EXISTS", f"tierd:job:{cid}", f"lock:{cid}") == "0", timeout,
               f"the end of job {cid}")
    assert sha(site.paths[level] / name) == digest
    assert site.job(cid)["status"] == "done" and leftovers(site) == []


def leftovers(site):
    """Private names but those of contents whose jobs are still at work: `.tierd-old.<cid>` is right until then."""
    def at_work(path):
        return site.redis.cli("EXISTS", f"tierd:job:{path.name.split('.')[2]}") == "1"
    return [path for path in map(pathlib.Path, site.leftovers()) if not at_work(path) and os.path.lexists(path)]


def ended_as(site, cid, status, name, level, digest):
    """A job that is given up says why, and the content is where it was."""
    wait_until(lambda: site.job(cid)["status"] == status, 60, f"{status} (it is {site.job(cid)})")
    assert site.job(cid)["error"] and site.level(cid) == level
    assert sha(site.paths[level] / name) == digest
    assert site.leftovers() == [] and site.redis.cli("EXISTS", f"lock:{cid}") == "0"
    return site.job(cid)["error"]


def hurry(site, cid):
    """What waits for its next attempt is due now."""
    if site.redis.cli("EXISTS", f"lock:{cid}") == "0":
        site.redis.cli("ZADD", "tierd:due", "XX", "1", str(cid))
        site.redis.cli("LPUSH", "tierd:wake", "1")
        site.redis.cli("LTRIM", "tierd:wake", "0", "0")


def check(site, *options):
    """What `tierd check` finds."""
    command = [TIERD, "check", *options, *[f"--root={r}" for r in site.roots], *site.common()]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return result.stdout + result.stderr


class Halts:
    """The only child of a worker, which is to stand still at several calls in turn. The calls have different names."""

    def __init__(self, worker, *expressions):
        self.child, = worker.children()
        traced = ",".join(e.split(":")[0] for e in expressions)
        self.trace = Strace(self.child, f"trace={traced}", *[f"inject={e}" for e in expressions])
        self.seen = 0

    def wait(self):
        """Until it stands still once more."""
        def stopped():
            return sum(line.startswith("--- stopped by SIGSTOP") for line in self.trace.lines()) > self.seen
        wait_until(stopped, 60, "the child is held")
        self.seen += 1

    def go(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.go()
        self.trace.close()


def settles(site, cid, name, level, digest, timeout=60):
    """As settled; what is put off meanwhile is hurried."""
    def over():
        hurry(site, cid)
        return site.job(cid)["status"] != "update" and site.redis.cli("EXISTS", f"tierd:job:{cid}", f"lock:{cid}") == "0"

    wait_until(over, timeout, f"the end of job {cid}")
    found = {at: sha(site.paths[at] / name) == digest for at in site.places(name)}
    assert found == {level: True}, f"row {site.level(cid)}, right at {found}, job {site.job(cid)}"
    settled(site, cid, name, level, digest)
