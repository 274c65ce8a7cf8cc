"""Programs that write to a content while it moves. What fsync(2) told them is durable is what a reader finds in the end who
follows the database, whatever step the move was at.
"""
import contextlib
import hashlib
import mmap
import os
import re
import signal

import mounts
import pytest
from conftest import make_site, sha, wait_until
from harness.servers import frozen
from harness.strace import available
from holding import COMMITTING, COPIED, DURABLE, RENAMED, STANDS, Halts, check, content, held, hurry, settles

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))

# The calls at which the child stands still while something is written; None: it is at none, the row is changed
# already, and the old copy has its name for a while yet.
STAGES = {"copied": COPIED, "durable": DURABLE, "published": STANDS, "done": COMMITTING, "committed": None, "renamed": RENAMED}
EARLY = ("copied", "durable", "published")
SLOW_RENAME = "renameat2:delay_enter=1500000:when=1"
NEXT_NAME = "next version"


class Writer:
    """Has the file open, or mapped, and says what it was told is durable."""

    def __init__(self, path, mapped=False):
        self.file = open(path, "r+b", buffering=0)
        self.map = mmap.mmap(self.file.fileno(), 0) if mapped else None
        self.mapped = mapped

    def write(self, text):
        if self.mapped:
            self.map[:len(text)] = text
            self.map.flush()  # msync(MS_SYNC)
            return hashlib.sha256(self.map[:]).hexdigest()
        self.file.seek(0)
        self.file.write(text)
        os.fsync(self.file.fileno())
        self.file.seek(0)
        return hashlib.sha256(self.file.read()).hexdigest()

    def close(self):
        if self.map:
            self.map.close()
        self.file.close()


class Mapper(Writer):
    """The descriptor is closed; the mapping alone stays."""

    def __init__(self, path):
        super().__init__(path, mapped=True)
        self.file.close()


def rewrite(path, data, by_rename):
    """As a careful program does it; the hash of what is durable now."""
    if not by_rename:
        writer = Writer(path)
        try:
            return writer.write(data)
        finally:
            writer.close()
    fresh = path.with_name(NEXT_NAME)
    with open(fresh, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def at_stage(site, worker, stage, opens=None):
    """A move is posted; in the context it is at the stage. `opens` is called before: behind the first look whether anybody
    has the file open for writing, or, for the later stages, behind the second, which comes right before the commit."""
    stop = STAGES[stage]
    first = COPIED if stage in EARLY else COMMITTING
    expressions = [first] + ([] if stop == first else [stop or SLOW_RENAME])
    with Halts(worker, *expressions) as halts:
        site.post(1, 5000)
        halts.wait()
        if opens:
            opens()
        if stop != first:
            halts.go()
        if stop is None:
            wait_until(lambda: site.level(1) == "gold", what="the commit")
        elif stop != first:
            halts.wait()
        yield
        if stop is None:
            assert not (site.paths["bronze"] / ".tierd-old.1").exists(), "too late: not what was to be tested"
        halts.go()


SOME = {("published", "closed"), ("done", "mapped"), ("committed", "closed"), ("renamed", "kept open")}


@pytest.mark.parametrize("how", ["closed", "mapped", "kept open"])
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_written_by_who_had_it_open(two_fs, stage, how, full):
    """Opened behind the looks whether anybody writes; written to and synced at a later step."""
    if not full and (stage, how) not in SOME:
        pytest.skip("only in the full run")
    site = two_fs
    name, _ = content(site)
    source = site.paths["bronze"] / name
    worker = site.both(workers=1)
    writer = []
    with at_stage(site, worker, stage, lambda: writer.append((Mapper if how == "mapped" else Writer)(source))):
        digest = writer[0].write(f"written when it was {stage}".encode())
        if how == "closed":
            writer[0].close()
    if how != "closed":
        # tierd lets it alone for as long as it is open: it says so, or it has taken it away
        wait_until(lambda: hurry(site, 1) or not source.exists() or worker.count("put off|is left|tried again"), 30, "a word")
        digest = writer[0].write(b"written when it was over")
        writer[0].close()
    settles(site, 1, name, "gold", digest)


@pytest.mark.parametrize("opened", [Writer, Mapper], ids=["open", "mapped"])
def test_who_had_it_open_writes_when_it_is_over(two_fs, opened):
    """Opened while it is copied, and written to when nothing is left to be done but to take the old copy away."""
    site = two_fs
    name, _ = content(site)
    source = site.paths["bronze"] / name
    worker = site.both(workers=1)
    writer = []
    with at_stage(site, worker, "copied", lambda: writer.append(opened(source))):
        pass
    wait_until(lambda: hurry(site, 1) or not source.exists() or worker.count("put off|is left|tried again"), 30, "a word")
    digest = writer[0].write(b"written when it was over")
    writer[0].close()
    settles(site, 1, name, "gold", digest)


# Where the source lies, and the same directory without the file system in user space.
SOURCES = {**mounts.LAYERS, "sshfs": mounts.sshfs, "overlay": lambda where, data: mounts.overlay(where, upper=data)}


@contextlib.contextmanager
def source_on(servers, tmp_path, layer):
    below = tmp_path / "below"
    below.mkdir()
    with SOURCES[layer](tmp_path / "layer", below), contextlib.closing(make_site(servers, tmp_path, tmp_path / "layer")) as site:
        yield site


def written_when_it_is_over(site, opened, path=None):
    """The content moves from gold to bronze; somebody has it open since right before the commit."""
    name, _ = content(site, level="gold")
    source = site.paths["gold"] / name
    worker = site.both(workers=1)
    with held(worker, COMMITTING, lambda: site.post(1, 0)):
        writer = opened(path or source)
    wait_until(lambda: hurry(site, 1) or not source.exists() or worker.count("put off|is left|tried again"), 30, "a word")
    digest = writer.write(b"written when it was over")
    writer.close()
    settles(site, 1, name, "bronze", digest)


@pytest.mark.skipif(mounts.pools_available() is not None, reason=str(mounts.pools_available()))
@pytest.mark.parametrize("opened", [Writer, Mapper], ids=["open", "mapped"])
@pytest.mark.parametrize("layer", [pytest.param(name, marks=() if name == "mergerfs" else pytest.mark.full_only) for name in SOURCES])
def test_who_has_it_open_on_another_file_system(servers, tmp_path, layer, opened):
    """Where a lease cannot tell who writes."""
    with source_on(servers, tmp_path, layer) as site:
        written_when_it_is_over(site, opened)


@pytest.mark.skipif(mounts.pools_available() is not None, reason=str(mounts.pools_available()))
@pytest.mark.full_only
def test_who_has_it_open_through_a_mount_above_the_level(servers, tmp_path):
    """The level is a directory, the program writes through a bindfs of it: whose process has the file open then."""
    with contextlib.closing(make_site(servers, tmp_path)) as site:
        with mounts.bindfs(tmp_path / "above", data=site.paths["gold"]) as above:
            written_when_it_is_over(site, Writer, above / "1.bin")


@pytest.mark.parametrize("stage", ["copied", "durable", "published", "done", "committed"])
def test_what_is_written_by_rename(two_fs, stage, full):
    """Another file takes the name of the source, as most editors and deployments do it."""
    if not full and stage != "done":
        pytest.skip("only in the full run")
    site = two_fs
    name, _ = content(site)
    worker = site.both(workers=1)
    with at_stage(site, worker, stage):
        digest = rewrite(site.paths["bronze"] / name, os.urandom(100001), True)
    settles(site, 1, name, "gold", digest)


@pytest.mark.full_only
def test_a_file_that_takes_the_name_behind_the_private_rename(two_fs):
    """Whoever makes a new file where the content was does not follow the database. It is not lost, and it is named."""
    site = two_fs
    name, old = content(site)
    worker = site.both(workers=1)
    with at_stage(site, worker, "renamed"):
        new = rewrite(site.paths["bronze"] / name, os.urandom(100001), True)
    wait_until(lambda: hurry(site, 1) or site.redis.cli("EXISTS", "tierd:job:1", "lock:1") == "0", 60, "the end of the job")
    found = {sha(site.paths[level] / name) for level in site.places(name)}
    assert new in found and sha(site.paths[site.level(1)] / name) in (old, new)
    if site.level(1) == "gold" and old in found:
        assert "different" in check(site)


def test_an_old_copy_that_came_back_from_a_backup(two_fs):
    """The row is changed already, and an older file takes the source's name: a disk was restored. What was moved stays."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1)
    back = site.paths["bronze"] / NEXT_NAME
    with at_stage(site, worker, "committed"):
        back.write_bytes(b"of last week")
        os.utime(back, (1_600_000_000, 1_600_000_000))
        back.rename(site.paths["bronze"] / name)
    wait_until(lambda: hurry(site, 1) or site.redis.cli("EXISTS", "tierd:job:1", "lock:1") == "0", 60, "the end of the job")
    assert site.level(1) == "gold" and sha(site.paths["gold"] / name) == digest
    assert (site.paths["bronze"] / name).read_bytes() == b"of last week"
    assert "the newer one is in gold" in check(site)


def test_two_copies_that_both_changed(two_fs):
    """One program writes to the source that it had open, another follows the database to the new copy. Neither is lost."""
    site = two_fs
    name, _ = content(site)
    worker = site.both(workers=1)
    with at_stage(site, worker, "renamed"):
        with open(site.paths["bronze"] / ".tierd-old.1", "r+b", buffering=0) as late:  # as who opened it before
            late.write(b"written to the source")
            os.fsync(late.fileno())
        one = sha(site.paths["bronze"] / ".tierd-old.1")
        two = rewrite(site.paths["gold"] / name, b"written to the copy", False)
    wait_until(lambda: hurry(site, 1) or site.redis.cli("EXISTS", "lock:1") == "0" and worker.count("is left|is dead"), 60,
               "a word of both")
    assert {sha(site.paths[level] / name) for level in site.places(name)} == {one, two} and site.leftovers() == []
    assert "different" in check(site, "--repair")
    assert {sha(site.paths[level] / name) for level in site.places(name)} == {one, two}


# ---- the commit waits ----

@contextlib.contextmanager
def api_away(site, stopped):
    """The API does not answer; at the end it does."""
    api = site.api
    pids = [api.process.pid, *api.children()]
    if not stopped:
        api.stop()
        yield
        site.api = site.start("--role=api", f"--listen={api.address}", *site.common())
        return
    with frozen(*pids):
        yield


IN_PART = {("in place", "ended", "lives"), ("by rename", "ended", "is killed")}


@pytest.mark.parametrize("then", ["lives", "is killed"])
@pytest.mark.parametrize("away", ["ended", "stopped"])
@pytest.mark.parametrize("how", ["in place", "by rename"])
def test_rewritten_while_the_commit_waits(two_fs, how, away, then, full):
    """The copy is finished, the API is away, the source is rewritten: the new content wins, whoever commits. A stopped API
    has the worker's request already, and carries it out when it goes on."""
    if not full and (how, away, then) not in IN_PART:
        pytest.skip("only in the full run")
    site = two_fs
    name, _ = content(site)
    worker = site.both(workers=1, lease="1s")
    with contextlib.ExitStack() as stack:
        with held(worker, STANDS, lambda: site.post(1, 5000)):
            stack.enter_context(api_away(site, away == "stopped"))
        worker.wait_line("the API is away, the commit waits", timeout=30)
        if then == "is killed":
            worker.stop(signal.SIGKILL)
        assert site.level(1) == "bronze"
        digest = rewrite(site.paths["bronze"] / name, b"the new content" * 1000, how == "by rename")
    if then == "is killed":
        site.start_worker(workers=1, lease="1s")
    settles(site, 1, name, "gold", digest)


def test_a_backup_comes_back_while_the_commit_waits(two_fs):
    """The source is older by now than the copy, which may be the only one of what was written last: a person must say."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    with contextlib.ExitStack() as stack:
        with held(worker, STANDS, lambda: site.post(1, 5000)):
            stack.enter_context(api_away(site, False))
        worker.wait_line("the API is away, the commit waits", timeout=30)
        back = site.paths["bronze"] / NEXT_NAME
        back.write_bytes(b"of last week")
        os.utime(back, (1_600_000_000, 1_600_000_000))
        back.rename(site.paths["bronze"] / name)
    wait_until(lambda: hurry(site, 1) or site.level(1) == "gold" or site.job(1)["status"] == "conflict", 60, "the end of the job")
    assert site.level(1) == "bronze"
    assert sha(site.paths["gold"] / name) == digest and (site.paths["bronze"] / name).read_bytes() == b"of last week"


def test_a_copy_that_went_while_its_commit_waits(two_fs):
    """The row never names a level where nothing stands: another copy is made."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="1s")
    with contextlib.ExitStack() as stack:
        with held(worker, STANDS, lambda: site.post(1, 5000)):
            stack.enter_context(api_away(site, False))
        worker.wait_line("the API is away, the commit waits", timeout=30)
        (site.paths["gold"] / name).unlink()
    worker.wait_line("the copy at the target was taken away before its commit", timeout=30)
    settles(site, 1, name, "gold", digest)


def test_a_commit_under_way_of_a_copy_that_went(two_fs):
    """An API that was stopped between its look at the job and the change of the row goes on when the copy is made anew."""
    site = two_fs
    name, digest = content(site)
    worker = site.both(workers=1, lease="2s")
    with contextlib.ExitStack() as stack:
        with held(worker, STANDS, lambda: site.post(1, 5000)):
            stack.enter_context(api_away(site, False))
        worker.wait_line("the API is away, the commit waits", timeout=30)
        (seen,), = site.db.sql("SELECT update_time FROM contents WHERE cid = 1")
        with held(worker, COPIED, (site.paths["gold"] / name).unlink):
            site.db.sql(f"UPDATE contents SET content_level = 'gold' WHERE content_level = 'bronze' AND update_time = '{seen}'")
            assert site.level(1) == "bronze"
    settles(site, 1, name, "gold", digest)


def test_check_names_the_newer_of_two_that_differ(two_fs):
    """Which one is newer is said, and neither is removed."""
    site = two_fs
    name, _ = content(site)
    os.utime(site.paths["bronze"] / name, (1_600_000_000, 1_600_000_000))
    (site.paths["gold"] / name).write_bytes(b"newer")
    site.both(workers=1)
    said = check(site, "--repair")
    assert re.search("^different +1 .*newer", said, re.M), said
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="quiet")
    assert sorted(site.places(name)) == ["bronze", "gold"] and (site.paths["gold"] / name).read_bytes() == b"newer"
