"""Rows of the fault matrix about processes, disks and files."""
import collections
import contextlib
import fcntl
import os
import re
import resource
import shutil
import signal
import struct
import subprocess

import harness.servers
import mounts
import pytest
from conftest import make_site, sha, site_on_two, wait_until
from harness.servers import TIERD, short_dir
from harness.strace import Strace, available
from holding import COPIED, DURABLE, RENAMED, STANDS, content, ended_as, held, hurry, settled

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


# ---- 4, 5 ----

def test_row_4_supervisor_killed_in_the_middle(two_fs):
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1, lease="1s")
    with held(worker, STANDS, lambda: two_fs.post(1, 5000)) as child:
        worker.process.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), what="the child ends with its supervisor")
    two_fs.start_worker(workers=1, lease="1s")
    settled(two_fs, 1, name, "gold", digest)


def test_row_5_a_child_killed_five_times_by_one_job(two_fs):
    """A job that kills whoever takes it must not kill a fleet: dead after five, and others go on."""
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1, lease="500ms")
    child, = worker.children()
    dies = ("trace=fchmod", "inject=fchmod:signal=KILL:when=1")
    with Strace(worker.process.pid, *dies, follow=True), Strace(child, *dies):
        two_fs.post(1, 5000)  # each child dies at its first fchmod
        error = ended_as(two_fs, 1, "dead", name, "bronze", digest)
    assert "five workers" in error and worker.count("killed by signal 9") == 5
    other, other_digest = content(two_fs, 2)
    two_fs.post(2, 5000)
    settled(two_fs, 2, other, "gold", other_digest)


def test_row_5_one_job_of_a_group_kills_its_child(two_fs):
    """It takes the others of its group down with it once; from then on each is alone, and only the one ends dead."""
    site, cids, bad = two_fs, range(1, 21), 11
    found = {cid: content(site, cid) for cid in cids}
    site.redis.cli("HSET", "tierd:paused", "@all", "0")
    worker = site.both(workers=1, lease="500ms")
    child, = worker.children()
    for cid in cids:
        site.post(cid, 5000)
    wait_until(lambda: site.redis.cli("ZCARD", "tierd:parked:@all") == str(len(cids)), what="all are ready together")
    dies = ("trace=pread64", "inject=pread64:signal=KILL:when=1")
    path = site.paths["bronze"] / found[bad][0]

    def is_over():
        return all(site.job(cid)["status"] == ("dead" if cid == bad else "done") for cid in cids)

    with Strace(worker.process.pid, *dies, follow=True, path=path), Strace(child, *dies, path=path):
        subprocess.run([harness.servers.TIERD, "resume", *site.common()], check=True, capture_output=True)
        wait_until(is_over, 60, "the end of all")
    assert "five workers" in ended_as(site, bad, "dead", found[bad][0], "bronze", found[bad][1])
    for cid in set(cids) - {bad}:
        settled(site, cid, found[cid][0], "gold", found[cid][1])
    assert worker.count("killed by signal 9") == 5 and worker.count("will be tried again") == 0
    begun = collections.Counter(int(re.search(r"cid=(\d+)", line)[1]) for line in worker.lines if " moves bronze" in line)
    assert begun.pop(bad) == 5 and set(begun.values()) == {1, 2}, f"begun {begun}"


# ---- 6 to 8: a power cut ----

EXT4_IOC_SHUTDOWN = 0x8004587D   # _IOR('X', 125, __u32); XFS has the same number
NOLOGFLUSH = 2                   # as if the power went: the log in memory is lost


class Disk:
    """A file system in a file, that can lose its power."""

    def __init__(self, folder, kind, size=400 * 2**20, options=()):
        self.image, self.where = folder / f"{kind}.img", folder / kind
        with open(self.image, "wb") as f:
            f.truncate(size)
        self.where.mkdir()
        subprocess.run([f"mkfs.{kind}", "-q", self.image], check=True, capture_output=True)
        self.mount(*options)

    def mount(self, *options):
        subprocess.run(["mount", "-o", ",".join(("loop", *options)), self.image, self.where], check=True,
                       capture_output=True)

    def cut(self):
        fd = os.open(self.where, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)

    def unmount(self):
        subprocess.run(["umount", self.where], check=True, capture_output=True)

    def close(self):
        if subprocess.run(["umount", self.where], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", self.where], capture_output=True, check=False)


@contextlib.contextmanager
def on_disk(servers, tmp_path, kind):
    disk = Disk(tmp_path, kind)
    try:
        with contextlib.closing(make_site(servers, tmp_path, disk.where)) as site:
            yield site, disk
    finally:
        disk.close()


@root_only
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("row,at,stands", [(6, COPIED, False), (7, STANDS, None),
                                           (8, RENAMED, True)], ids=["row_6", "row_7", "row_8"])
@pytest.mark.full_only
def test_power_cut(servers, tmp_path, kind, row, at, stands):
    """The destination's disk loses its power: before the copy's fsync, before the directory's, after the commit."""
    with on_disk(servers, tmp_path, kind) as (site, disk):
        name, digest = content(site)
        os.sync()  # the level itself is older than the fault
        worker = site.both(workers=1, lease="1s")
        with held(worker, at, lambda: site.post(1, 5000)) as child:
            worker.process.kill()
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: not os.path.exists(f"/proc/{child}"), what="the child's end")
            disk.cut()
        disk.unmount()
        disk.mount()
        found = (site.paths["gold"] / name).exists()
        assert found or row != 8, "a committed copy must survive"
        assert not found or stands is not False, "a name that was never durable, nor given"
        if found:
            assert sha(site.paths["gold"] / name) == digest, "a half file under the final name"
        site.start_worker(workers=1, lease="1s")
        settled(site, 1, name, "gold", digest)


LAYERED = [pytest.param(kind, layer, marks=() if (kind, layer) == ("ext4", "bindfs") else pytest.mark.full_only)
           for kind in ("ext4", "xfs") for layer in mounts.LAYERS]


@root_only
@pytest.mark.skipif(mounts.pools_available() is not None, reason=str(mounts.pools_available()))
@pytest.mark.parametrize("kind,layer", LAYERED)
@pytest.mark.parametrize("name", ["1.bin", "new folder/1.bin"], ids=["", "in a new folder"])
def test_power_cut_below_a_file_system_in_user_space(servers, tmp_path, request, kind, layer, name):
    """The disk below the level loses its power as soon as the row is changed and the old copy gone: what the fsyncs of such a
    file system were worth shows then. Nothing else is to bring the names to the disk meanwhile."""
    if layer == "gocryptfs" and "/" in name:
        request.applymarker(pytest.mark.xfail(raises=OSError, strict=True, reason="gocryptfs never syncs the key file of a folder, "
                                              "without which nothing in it can be read: see the manual's page on file systems"))
    disk = Disk(tmp_path, kind, options=("commit=300",) if kind == "ext4" else ())
    where, below = tmp_path / "layer", disk.where / "layer"
    stack = contextlib.ExitStack()
    try:
        below.mkdir()
        stack.enter_context(mounts.LAYERS[layer](where, below))
        with contextlib.closing(make_site(servers, tmp_path, where)) as site:
            data = os.urandom(100000)
            site.add(1, name, "bronze", data)
            os.sync()  # the level itself is older than the fault
            worker = site.both(workers=1)
            site.post(1, 5000)
            wait_until(lambda: site.places(name) == ["gold"], what="the old copy goes")
            disk.cut()
            worker.stop()
            stack.close()
            disk.unmount()
            disk.mount()
            stack.enter_context(mounts.LAYERS[layer](where, below))
            assert site.level(1) == "gold"
            assert (site.paths["gold"] / name).exists(), "the name was not on the disk"
            assert (site.paths["gold"] / name).read_bytes() == data
    finally:
        stack.close()
        disk.close()


@root_only
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("at", [COPIED, STANDS], ids=["before_fsync", "before_directory_fsync"])
@pytest.mark.full_only
def test_row_51_the_file_system_dies_under_a_living_worker(servers, tmp_path, kind, at):
    """XFS answers an fsync of a directory with success though its log has been shut down and lost."""
    with on_disk(servers, tmp_path, kind) as (site, disk):
        name, digest = content(site)
        os.sync()
        worker = site.both(workers=1)
        with held(worker, at, lambda: site.post(1, 5000)):
            disk.cut()
        worker.wait_line("will be tried again|put off", timeout=30)
        assert site.level(1) == "bronze" and sha(site.paths["bronze"] / name) == digest
        worker.stop()
        disk.unmount()
        disk.mount()
        site.start_worker(workers=1)
        wait_until(lambda: hurry(site, 1) or site.level(1) == "gold", 60, what="the move")
        settled(site, 1, name, "gold", digest)


# ---- 20 to 25 ----

@contextlib.contextmanager
def small_tmpfs(servers, tmp_path, size):
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where], check=True, capture_output=True)
    site = None
    try:
        site = make_site(servers, tmp_path, where)
        yield site, where
    finally:
        if site:
            site.close()
        subprocess.run(["umount", "-l", where], check=True, capture_output=True)


@root_only
@pytest.mark.full_only
def test_row_20_no_space(servers, tmp_path):
    """A full level costs no attempt; when there is room the job goes on by itself."""
    with small_tmpfs(servers, tmp_path, "1m") as (site, where):
        (where / "ballast").write_bytes(b"x" * 950000)
        name, digest = content(site, data=os.urandom(300000))
        worker = site.both(workers=1)
        site.post(1, 5000)
        worker.wait_line(r"no space left in gold")
        assert site.places(name) == ["bronze"] and site.leftovers() == []
        assert site.redis.cli("HGET", "tierd:job:1", "attempts") in ("", "0")
        (where / "ballast").unlink()
        settled(site, 1, name, "gold", digest, timeout=90)


@root_only
@pytest.mark.full_only
def test_row_21_no_space_at_fsync(servers, tmp_path):
    """A loop image on a full tmpfs: the data cannot reach the device, which shows at fsync."""
    with small_tmpfs(servers, tmp_path, "40m") as (site, where):
        site.close()
        disk = Disk(where, "ext4", 200 * 2**20)
        try:
            site = make_site(servers, where, disk.where)
            with contextlib.closing(site):
                name, digest = content(site, data=os.urandom(12 * 2**20))
                (where / "ballast").write_bytes(b"")
                with contextlib.suppress(OSError), open(where / "ballast", "wb") as f:
                    while True:
                        f.write(b"x" * 65536)
                worker = site.both(workers=1)
                site.post(1, 5000)
                worker.wait_line(r"will be tried again|no space left|is dead", timeout=60)
                assert site.level(1) == "bronze" and sha(site.paths["bronze"] / name) == digest
                assert not (site.paths["gold"] / name).exists(), "published though it is not durable"
        finally:
            disk.close()


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
@pytest.mark.full_only
def test_row_22_a_failed_fsync_is_never_repeated_on_the_inode(two_fs, error):
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1)
    child, = worker.children()
    with Strace(child, "trace=fsync,openat,linkat", f"inject=fsync:error={error}:when=1") as trace:
        two_fs.post(1, 5000)
        wait_until(lambda: hurry(two_fs, 1) or two_fs.level(1) == "gold", what="the second attempt")
        settled(two_fs, 1, name, "gold", digest)
        trace.detach()
        calls = trace.calls()
    failed = next(i for i, (call, rest) in enumerate(calls) if call == "fsync" and "INJECTED" in rest)
    copies = [i for i, (call, rest) in enumerate(calls) if call == "openat" and "O_TMPFILE" in rest]
    assert len(copies) == 2 and copies[0] < failed < copies[1], "the second attempt has an inode of its own"


@pytest.mark.parametrize("when", [1, 2], ids=["begun", "waited_for"])
def test_what_cannot_be_written_out_is_not_a_copy(two_fs, when):
    """Any error of the disk counts: the wait takes it off the descriptor, and fsync says nothing of it any more."""
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1)
    child, = worker.children()
    with Strace(child, "trace=sync_file_range,linkat", f"inject=sync_file_range:error=ENODATA:when={when}") as trace:
        two_fs.post(1, 5000)
        worker.wait_line("write the copy: No data available")
        trace.detach()
        assert "linkat" not in [call for call, _ in trace.calls()], "published though it is not on the disk"
    hurry(two_fs, 1)
    settled(two_fs, 1, name, "gold", digest)


@pytest.mark.full_only
def test_row_23_file_size_limit(two_fs):
    """EFBIG, not death by SIGXFSZ."""
    name, digest = content(two_fs, data=os.urandom(300000))
    worker = two_fs.both(workers=1)
    child, = worker.children()
    subprocess.run(["prlimit", f"--pid={child}", "--fsize=100000:unlimited"], check=True)
    two_fs.post(1, 5000)
    worker.wait_line(r"no space left in gold|File too large")
    assert worker.count("a child died") == 0 and two_fs.places(name) == ["bronze"]
    subprocess.run(["prlimit", f"--pid={child}", "--fsize=unlimited:unlimited"], check=True)
    wait_until(lambda: hurry(two_fs, 1) or two_fs.level(1) == "gold", 90, what="the move")
    settled(two_fs, 1, name, "gold", digest)


@pytest.mark.parametrize("row,inject", [(24, "pread64:error=EIO"), (25, "fsync:error=EIO:when=2+2")], ids=["row_24", "row_25"])
@pytest.mark.full_only
def test_an_error_that_stays(two_fs, row, inject):
    """EIO reading the source, or syncing the destination's directory, each time: dead, never done."""
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1)
    child, = worker.children()
    with Strace(child, "trace=pread64,fsync", f"inject={inject}"):
        two_fs.post(1, 5000)
        wait_until(lambda: hurry(two_fs, 1) or two_fs.job(1)["status"] in ("dead", "done"), 60, what="the end")
        assert two_fs.job(1)["status"] == "dead", f"row {row}"
    assert two_fs.level(1) == "bronze" and sha(two_fs.paths["bronze"] / name) == digest
    two_fs.post(1, 5000)  # the disk was changed: it goes on from there
    settled(two_fs, 1, name, "gold", digest)


# ---- 27 to 33 ----

@pytest.mark.parametrize("change", ["overwritten", "truncated", "grown"])
def test_row_27_source_changed_while_copied(two_fs, change):
    """Neither a mixture nor the old data: what was written meanwhile is what moves."""
    name, _ = content(two_fs)
    source = two_fs.paths["bronze"] / name
    worker = two_fs.both(workers=1)
    with held(worker, COPIED, lambda: two_fs.post(1, 5000)):
        with open(source, "r+b") as f:
            if change == "overwritten":
                f.write(b"new")
            elif change == "truncated":
                f.truncate(1000)
            else:
                f.seek(0, 2)
                f.write(b"more")
        digest = sha(source)
    worker.wait_line("is put off|will be tried again")
    hurry(two_fs, 1)
    settled(two_fs, 1, name, "gold", digest)


def test_row_28_source_unlinked_while_copied(two_fs):
    name, _ = content(two_fs)
    worker = two_fs.both(workers=1)
    with held(worker, COPIED, lambda: two_fs.post(1, 5000)):
        (two_fs.paths["bronze"] / name).unlink()
    wait_until(lambda: two_fs.job(1)["status"] == "dead", what="dead")
    assert two_fs.level(1) == "bronze" and two_fs.places(name) == [] and two_fs.leftovers() == []


@pytest.mark.parametrize("fs", ["two_fs", "site"])
def test_row_29_a_foreign_file_before_publish(request, fs):
    site = request.getfixturevalue(fs)
    name, digest = content(site)
    worker = site.both(workers=1)
    with held(worker, DURABLE, lambda: site.post(1, 5000)):
        (site.paths["gold"] / name).write_bytes(b"somebody else's")
    ended_as(site, 1, "conflict", name, "bronze", digest)
    assert (site.paths["gold"] / name).read_bytes() == b"somebody else's"


@pytest.mark.parametrize("error", ["EIO", "ENOMEM"])
def test_row_29_a_foreign_file_that_cannot_be_compared(two_fs, error):
    """One of the same length: who could not compare it knows nothing of it, and must not take it for the content."""
    name, digest = content(two_fs)
    foreign = two_fs.paths["gold"] / name
    foreign.write_bytes(os.urandom(100000))
    stands = sha(foreign)
    worker = two_fs.both(workers=1)
    child, = worker.children()
    with Strace(child, "trace=pread64", f"inject=pread64:error={error}:when=1", path=foreign):
        two_fs.post(1, 5000)
        worker.wait_line("compare with the destination")
        hurry(two_fs, 1)
        ended_as(two_fs, 1, "conflict", name, "bronze", digest)
    assert sha(foreign) == stands


def test_row_30_an_identical_file_before_publish(two_fs):
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1)
    with held(worker, DURABLE, lambda: two_fs.post(1, 5000)):
        (two_fs.paths["gold"] / name).write_bytes((two_fs.paths["bronze"] / name).read_bytes())
    settled(two_fs, 1, name, "gold", digest)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_adopted_file_is_verified_too(two_fs, when):
    """What stands at the target is compared as its disk has it, not only as memory does."""
    name, digest = content(two_fs)
    source, target = (two_fs.paths[level] / name for level in ("bronze", "gold"))
    two_fs.start_api()
    worker = two_fs.start_worker("--verify=yes", workers=1)
    child, = worker.children()
    if when == "before":
        shutil.copy(source, target)
    stops = ["inject=fsync:signal=STOP:when=1"] if when == "after" else []
    with Strace(child, "trace=fsync,fadvise64", *stops) as trace:
        two_fs.post(1, 5000)
        if when == "after":
            wait_until(trace.held, what="the copy is durable")
            shutil.copy(source, target)
            os.kill(child, signal.SIGCONT)
        settled(two_fs, 1, name, "gold", digest)
        trace.detach()
        read_back = [rest for call, rest in trace.calls() if call == "fadvise64" and "DONTNEED" in rest]
    assert len(read_back) == (1 if when == "before" else 2)


def past_the_lease(site, cid=1):
    wait_until(lambda: site.redis.cli("EXISTS", f"lock:{cid}") == "0", what="the end of the lease")


def test_rows_31_and_35_stopped_past_its_lease_before_publish(two_fs):
    """It fences itself: what it copied is not published, the lease's new holder does the job."""
    name, digest = content(two_fs)
    worker = two_fs.both(workers=1, lease="700ms")
    with held(worker, DURABLE, lambda: two_fs.post(1, 5000)) as child:
        past_the_lease(two_fs)
        two_fs.post(1, 1500)
        assert not (two_fs.paths["gold"] / name).exists()
    settled(two_fs, 1, name, "silver", digest)
    assert not (two_fs.paths["gold"] / name).exists() and worker.children() == [child]


def test_leases_last_while_the_others_of_a_group_are_slow(two_fs):
    """Each file's fsync takes a while, all of them longer than a lease: nobody may take the last for abandoned."""
    contents = {cid: content(two_fs, cid) for cid in range(1, 25)}
    worker = two_fs.both(workers=4, lease="600ms")
    two_fs.redis.cli("HSET", "tierd:paused", "@all", "0")
    for cid in contents:
        two_fs.post(cid, 5000)
    slow = ("trace=fsync", "inject=fsync:delay_enter=300000")
    with contextlib.ExitStack() as tracers:
        for child in worker.children():
            tracers.enter_context(Strace(child, *slow))
        two_fs.redis.cli("HSET", "tierd:paused", "@all", "1")  # groups of 1, 2 and 4, then one worker is idle
        for cid, (name, digest) in contents.items():
            settled(two_fs, cid, name, "gold", digest)
    assert worker.count("abandoned|is put off|is left|tried again") == 0


def test_leases_last_while_the_directories_of_a_group_are_slow(two_fs):
    """As many directories as files: what makes the new names durable takes longer than a lease, and so does what makes
    the old ones go."""
    names = {cid: f"folder {cid}/{cid}.bin" for cid in range(1, 25)}
    for cid, name in names.items():
        two_fs.add(cid, name, "bronze", os.urandom(1000))
        (two_fs.paths["silver"] / name).parent.mkdir(parents=True)
    digests = {cid: sha(two_fs.paths["bronze"] / name) for cid, name in names.items()}
    worker = two_fs.both(workers=4, lease="600ms")
    two_fs.redis.cli("HSET", "tierd:paused", "@all", "0")
    for cid in names:
        two_fs.post(cid, 1000)
    with contextlib.ExitStack() as tracers:
        for child in worker.children():
            tracers.enter_context(Strace(child, "trace=fsync", "inject=fsync:delay_enter=300000"))
        two_fs.redis.cli("HSET", "tierd:paused", "@all", "1")
        for cid, name in names.items():
            settled(two_fs, cid, name, "silver", digests[cid], timeout=120)
    assert worker.count("abandoned|is put off|is left|tried again") == 0
    assert worker.count(" moves bronze to silver") == len(names)


def test_an_identical_file_before_publish_is_compared_for_longer_than_a_lease(two_fs):
    name, digest = content(two_fs, data=os.urandom(12 * 2**20))
    worker = two_fs.both(workers=1, lease="2s")
    slow = ("trace=fsync,pread64", "inject=pread64:delay_enter=100000")
    with held(worker, DURABLE, lambda: two_fs.post(1, 5000), *slow) as child:
        shutil.copy(two_fs.paths["bronze"] / name, two_fs.paths["gold"] / name)
        other = two_fs.start_worker(workers=1, lease="2s")
        os.kill(child, signal.SIGCONT)
        settled(two_fs, 1, name, "gold", digest)
    assert worker.count(f"{name} moves") == 1 and other.count(f"{name} ") == 0


def test_a_spare_is_compared_for_longer_than_a_lease(two_fs):
    """What `tierd check` hands over is a claim like others: it lasts, though no post ever wanted it."""
    name, digest = content(two_fs, level="gold", data=os.urandom(3 * 2**20))
    shutil.copy(two_fs.paths["gold"] / name, two_fs.paths["bronze"] / name)
    worker = two_fs.both(workers=1, lease="600ms")
    child, = worker.children()
    with Strace(child, "trace=pread64", "inject=pread64:delay_enter=100000"):
        two_fs.redis.cli("HSET", "tierd:job:1", "state", "cancelled", "src", "gold", "target", "gold", "spare:bronze", "0")
        two_fs.redis.cli("ZADD", "tierd:due", "1", "1")  # as the script does it
        wait_until(lambda: two_fs.places(name) == ["gold"], what="the spare goes")
    wait_until(lambda: two_fs.redis.cli("EXISTS", "tierd:job:1", "lock:1") == "0", what="the end")
    assert sha(two_fs.paths["gold"] / name) == digest and two_fs.leftovers() == []


@pytest.mark.parametrize("at", [STANDS, RENAMED], ids=["row_32", "row_33"])
def test_stopped_past_its_lease_while_the_file_cycles_back(two_fs, at):
    """The old holder wakes up when the content has been moved back to where it was about to clean up."""
    name, digest = content(two_fs)
    first = two_fs.both(workers=1, lease="700ms")
    with held(first, at, lambda: two_fs.post(1, 5000)) as child:
        past_the_lease(two_fs)
        second = two_fs.start_worker(workers=1, lease="700ms")
        two_fs.post(1, 0)
        # the source is locked by the stopped process, which is alive: nothing can be taken from under it
        second.wait_line("is put off|is left|moves|abandoned", timeout=30)
        assert sha(two_fs.paths[two_fs.level(1)] / name) == digest
    settled(two_fs, 1, name, "bronze", digest)
    assert first.children() == [child]


def test_a_spare_is_locked_from_the_look_on(two_fs):
    """Stopped past its lease between the look at a second copy and what follows: nobody makes that one the content."""
    name, digest = content(two_fs)
    (two_fs.paths["gold"] / name).write_bytes((two_fs.paths["bronze"] / name).read_bytes())
    worker = two_fs.both(workers=1, lease="700ms")
    repair = [TIERD, "check", "--repair", *[f"--root={r}" for r in two_fs.roots], *two_fs.common()]
    with held(worker, RENAMED, lambda: subprocess.run(repair, check=False, capture_output=True, timeout=60)):
        past_the_lease(two_fs)
        with open(two_fs.paths["gold"] / ".tierd-old.1", "rb") as spare, pytest.raises(BlockingIOError):
            fcntl.flock(spare, fcntl.LOCK_EX | fcntl.LOCK_NB)
    wait_until(lambda: two_fs.redis.cli("EXISTS", "tierd:job:1", "lock:1") == "0", what="the end of the job")
    assert two_fs.places(name) == ["bronze"] and two_fs.leftovers() == []
    assert sha(two_fs.paths["bronze"] / name) == digest


# ---- 43, 47, 48 ----

def test_row_43_two_levels_one_directory(site):
    """Two levels that are one directory by a symbolic mistake: refused before anything is touched."""
    name, digest = content(site)
    site.db.sql(f"UPDATE level SET path = '{site.paths['bronze']}' WHERE level = 'gold'")
    site.both(workers=1)
    site.post(1, 5000)
    error = ended_as(site, 1, "dead", name, "bronze", digest)
    assert "show the same files" in error


@root_only
@pytest.mark.full_only
def test_row_48_read_only_mount(servers, tmp_path):
    with on_disk(servers, tmp_path, "ext4") as (site, disk):
        name, digest = content(site)
        subprocess.run(["mount", "-o", "remount,ro", disk.where], check=True, capture_output=True)
        worker = site.both(workers=1)
        site.post(1, 5000)
        worker.wait_line(r"Read-only file system")
        assert site.places(name) == ["bronze"]
        subprocess.run(["mount", "-o", "remount,rw", disk.where], check=True, capture_output=True)
        wait_until(lambda: hurry(site, 1) or site.level(1) == "gold", what="the move")
        settled(site, 1, name, "gold", digest)


@root_only
@pytest.mark.full_only
def test_row_48_immutable_source(servers, tmp_path):
    """The copy can be made, the old one cannot be taken away: it stays, named, until it can."""
    with on_disk(servers, tmp_path, "ext4") as (site, _):
        name, digest = content(site, level="gold")
        source = site.paths["gold"] / name
        subprocess.run(["chattr", "+i", source], check=True)
        try:
            worker = site.both(workers=1)
            site.post(1, 0)
            worker.wait_line(r"1\.bin.*(put off|left|tried again|cannot)|Operation not permitted", timeout=30)
            assert sha(site.paths[site.level(1)] / name) == digest
        finally:
            subprocess.run(["chattr", "-i", source], check=True)
        wait_until(lambda: hurry(site, 1) or site.places(name) == ["bronze"], 60, what="the move")
        settled(site, 1, name, "bronze", digest)


@root_only
@pytest.mark.full_only
def test_row_47_not_the_owner(servers, monkeypatch):
    """A worker that may read and write the folders but does not own the file: refused before work, or moved whole."""
    folder = short_dir("tierd-test.")
    folder.chmod(0o755)
    try:
        with site_on_two(servers, folder) as two_fs:
            not_the_owner(two_fs, folder, monkeypatch)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def not_the_owner(two_fs, tmp_path, monkeypatch):
    name, digest = content(two_fs)
    for path in two_fs.paths.values():
        os.chmod(path, 0o777)
        os.chmod(path.parent, 0o755)
    wrapper = tmp_path / "as-nobody"
    wrapper.write_text(f"#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {harness.servers.TIERD} \"$@\"\n")
    wrapper.chmod(0o755)
    two_fs.start_api()
    for server in (two_fs.redis, two_fs.db):
        server.run.chmod(0o755)
        server.socket.chmod(0o777)
    monkeypatch.setattr(harness.servers, "TIERD", wrapper)
    worker = two_fs.start_worker(workers=1)
    two_fs.post(1, 5000)
    line = worker.wait_line(r"moves|cannot|tried again|put off|not permitted", timeout=30)
    for _ in range(8):
        hurry(two_fs, 1)
        if two_fs.job(1)["status"] in ("dead", "done"):
            break
        wait_until(lambda: two_fs.job(1)["status"] in ("dead", "done") or hurry(two_fs, 1), 30, what=f"an end ({line})")
    level = two_fs.level(1)
    assert sha(two_fs.paths[level] / name) == digest and two_fs.leftovers() == []
    if two_fs.job(1)["status"] == "dead":
        assert re.search("owner|permitted", two_fs.job(1)["error"]) and two_fs.places(name) == ["bronze"]
    else:
        assert os.stat(two_fs.paths[level] / name).st_uid in (0, 65534)


# ---- descriptors ----

def with_open_files(monkeypatch, folder, soft, hard):
    """What is started from now on may have so many."""
    script = folder / "limited"
    script.write_text(f'#!/bin/sh\nulimit -S -n {soft} && ulimit -H -n {hard} && exec {TIERD} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(harness.servers, "TIERD", script)


@pytest.mark.parametrize("soft,hard", [(256, 256), (96, 96), (64, 1024)])
def test_few_descriptors_and_many_directories(two_fs, monkeypatch, soft, hard):
    """200 contents in 200 directories: as many at once as fit; nothing is tried in vain."""
    site, many = two_fs, 200
    for cid in range(1, many + 1):
        site.add(cid, f"d{cid}/x", "bronze", b"%d" % cid)
    site.start_api()
    for cid in range(1, many + 1):
        site.post(cid, 5000)
    with_open_files(monkeypatch, site.folder, soft, hard)
    worker = site.start_worker(workers=1)
    wait_until(lambda: site.db.sql("SELECT COUNT(*) FROM contents WHERE content_level = 'gold'")[0][0] == str(many),
               timeout=60, what="200 moves")
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="their end")
    assert [c for c in range(1, many + 1) if (site.paths["gold"] / f"d{c}" / "x").read_bytes() != b"%d" % c] == []
    assert not list(site.paths["bronze"].rglob("x")) and site.leftovers() == []
    assert worker.count("descriptors|level=(warn|error).*cid=") == 0, worker.lines
    assert site.redis.cli("HGET", "tierd:stats", "retried") in ("", "0")


@pytest.mark.parametrize("left", [3, 5, 6, 7, 8, 9])
def test_no_descriptor_is_to_be_had(two_fs, left):
    """Somebody lowers the limit of a running child: nothing counts as an attempt, and it goes on when there are some."""
    site = two_fs
    name, digest = content(site)
    site.both(workers=1)
    child = site.running[-1].children()[0]
    wait_until(lambda: site.redis.cli("HLEN", "tierd:use") != "0", what="a child that has looked at the levels")
    used = len(os.listdir(f"/proc/{child}/fd"))
    limits = resource.prlimit(child, resource.RLIMIT_NOFILE)
    resource.prlimit(child, resource.RLIMIT_NOFILE, (used + left, limits[1]))
    site.post(1, 5000)
    wait_until(lambda: "descriptors" in (site.redis.cli("HGET", "tierd:job:1", "error") or "")
               or site.job(1)["status"] == "done", what="a job that waits, or had enough of them")
    assert site.redis.cli("HGET", "tierd:job:1", "attempts") in ("", "0")
    assert site.redis.cli("HGET", "tierd:stats", "retried") in ("", "0")
    resource.prlimit(child, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: hurry(site, 1) or site.level(1) == "gold", what="the move")
    settled(site, 1, name, "gold", digest)
