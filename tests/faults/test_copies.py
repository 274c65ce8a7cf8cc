"""A copy is what its source is, whoever made it: its metadata, its folders; and only what does not fit waits.

Most run as root and as the packaged units' user with the capabilities of these (init/systemd/tierd-worker.service).
"""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import time

import harness.servers
import mounts
import pytest
from conftest import make_site, sha, wait_until
from harness.strace import Strace, available
from holding import COPIED, DURABLE, content, ended_as, held, hurry, settled

pytestmark = [pytest.mark.skipif(available() is not None, reason=str(available())),
              pytest.mark.skipif(os.geteuid() != 0, reason="mounting, and other owners, need root")]

UNIT = 4711  # its user
CAPS = "-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+lease"
NOBODY = 65534
ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
CAPABILITY = struct.pack("<IIIII", 0x02000000, 0x400, 0, 0, 0)  # cap_net_bind_service, permitted


@pytest.fixture(params=["root", "unit"])
def user(request, monkeypatch, tmp_path):
    """Workers run as root, or as the packaged unit has them."""
    if request.param == "unit":
        words = (f"setpriv --reuid={UNIT} --regid={UNIT} --clear-groups --no-new-privs --inh-caps={CAPS} "
                 f"--ambient-caps={CAPS} --bounding-set={CAPS}")
        wrapper = tmp_path / "as-the-unit"
        wrapper.write_text(f"#!/bin/sh\nexec {words} {harness.servers.TIERD} \"$@\"\n")
        wrapper.chmod(0o755)
        monkeypatch.setattr(harness.servers, "TIERD", wrapper)
    return request.param


def open_servers(servers, folder):
    """For whoever the worker is."""
    for parent in folder.parents[:-1]:
        if parent.stat().st_uid == os.geteuid() and parent != pathlib.Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    for server in servers:
        server.run.chmod(0o755)
        server.socket.chmod(0o777)


@contextlib.contextmanager
def gold_on(servers, tmp_path, kind, **more):
    other = tmp_path / "other"
    if kind == "tmpfs":
        mounting = mounts.mounted(other, "-t", "tmpfs", "-o", f"size={more.get('size', 2**28)}", "tmpfs")
    else:
        mounting = mounts.image(other, kind, **more)
    with mounting, contextlib.closing(make_site(servers, tmp_path, other)) as site:
        open_servers(servers, tmp_path / "x")
        yield site


def acl(user, mode=7):
    """user::rw-, user:USER:mode, group::---, mask::rwx, other::---"""
    entries = [(1, 6, 0xFFFFFFFF), (2, mode, user), (4, 0, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def facts(path):
    """All that a copy is to have of its source."""
    st = os.stat(path)
    return {"owner": (st.st_uid, st.st_gid), "mode": oct(st.st_mode), "mtime": st.st_mtime_ns,
            "attributes": {name: os.getxattr(path, name) for name in os.listxattr(path)
                           if not name.startswith("trusted.SGI_ACL_")}}  # XFS: a list in another form


def folder_facts(path):
    return {key: value for key, value in facts(path).items() if key != "mtime"}


def flags(path):
    return subprocess.run(["lsattr", "-d", path], check=True, capture_output=True, text=True).stdout.split()[0]


def source_of(site, acl_for=None):
    """A content that is not as files come to be."""
    name, digest = content(site)
    path = site.paths["bronze"] / name
    os.chown(path, 1234, 5678)
    os.chmod(path, 0o2660)
    if acl_for:
        os.setxattr(path, ACL, acl(acl_for, 4))
        os.chmod(path, 0o2660)
    os.setxattr(path, "user.note", b"kept")
    os.setxattr(path, "user.empty", b"")
    os.utime(path, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    return name, digest, facts(path)


def foreign(site, name):
    """The same content stands at the target, with metadata of its own."""
    path = site.paths["gold"] / name
    shutil.copyfile(site.paths["bronze"] / name, path)
    os.chown(path, 33, 33)
    os.setxattr(path, ACL, acl(NOBODY))
    os.chmod(path, 0o4777)
    os.setxattr(path, "user.foreign", b"goes")
    return path


# ---- metadata ----

@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
@pytest.mark.parametrize("acl_for", [None, 4321], ids=["no_list", "list"])
@pytest.mark.parametrize("stands", [False, True], ids=["made", "adopted"])
def test_the_metadata_is_exactly_the_sources(servers, tmp_path, user, kind, acl_for, stands):
    """No right more than the source gives: neither one that the folder hands down, nor one of what stood there."""
    with gold_on(servers, tmp_path, kind) as site:
        os.setxattr(site.paths["gold"], DEFAULT_ACL, acl(NOBODY))
        name, digest, wanted = source_of(site, acl_for)
        if stands:
            foreign(site, name)
        site.both(workers=1)
        site.post(1, 5000)
        settled(site, 1, name, "gold", digest)
        assert facts(site.paths["gold"] / name) == wanted


def may_read(path, uid):
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "cat", str(path)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("call,when", [("fchmod", 1), ("fchown", 1), ("fremovexattr", 1),
                                       ("fsetxattr", 1), ("fsetxattr", 2), ("fsetxattr", 3), ("fchmod", 2), ("utimensat", 1),
                                       ("fsync", 3)])
@pytest.mark.full_only
def test_an_adopted_file_is_never_open_to_more(servers, tmp_path, call, when):
    """Held before and after each change: only who may read the source or could read the file before, can. Then killed
    there: the next attempt goes on from what is left."""
    with gold_on(servers, tmp_path, "ext4") as site:
        name, digest, wanted = source_of(site, 4321)
        path = foreign(site, name)
        os.removexattr(path, ACL)
        os.chmod(path, 0o600)
        for parent in (*path.parents[:-1],):
            if str(parent) != "/tmp":
                parent.chmod(parent.stat().st_mode | 0o055)
        os.setxattr(path, ACL, acl(8765))
        worker = site.both(workers=1, lease="1s")
        with held(worker, f"{call}:signal=STOP:when={when}", lambda: site.post(1, 5000)) as child:
            assert not may_read(path, NOBODY)
            worker.process.kill()
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: not os.path.exists(f"/proc/{child}"), what="the child's end")
        assert not may_read(path, NOBODY) and site.level(1) == "bronze"
        site.start_worker(workers=1, lease="1s")
        settled(site, 1, name, "gold", digest)
        assert facts(path) == wanted


def test_an_adopted_file_with_further_names_is_let_alone(two_fs):
    """Who changed its owner would change that of the other names, too."""
    name, digest = content(two_fs)
    stands = two_fs.paths["gold"] / name
    shutil.copyfile(two_fs.paths["bronze"] / name, stands)
    os.chmod(stands, 0o600)
    os.link(stands, stands.with_name("other"))
    worker = two_fs.both(workers=1)
    two_fs.post(1, 5000)
    worker.wait_line("is put off.*the file has further hard links")
    assert oct(os.stat(stands).st_mode)[-3:] == "600" and two_fs.level(1) == "bronze"
    stands.with_name("other").unlink()
    wait_until(lambda: hurry(two_fs, 1) or two_fs.level(1) == "gold", what="the move")
    settled(two_fs, 1, name, "gold", digest)


@pytest.mark.parametrize("stands", [False, True], ids=["made", "adopted"])
def test_a_file_capability_is_kept_or_refused(servers, tmp_path, user, stands):
    """The packaged unit may not set one: then the content stays where it is, and the reason names it."""
    with gold_on(servers, tmp_path, "ext4") as site:
        name, digest = content(site)
        source = site.paths["bronze"] / name
        os.setxattr(source, "security.capability", CAPABILITY)
        if stands:
            shutil.copyfile(source, site.paths["gold"] / name)
        site.both(workers=1)
        site.post(1, 5000)
        if user == "root":
            settled(site, 1, name, "gold", digest)
            assert os.getxattr(site.paths["gold"] / name, "security.capability") == CAPABILITY
        else:
            wait_until(lambda: site.job(1)["status"] == "dead", what="dead")
            assert site.job(1)["error"] == "keep the extended attribute security.capability: Operation not permitted"
            assert os.getxattr(source, "security.capability") == CAPABILITY and site.level(1) == "bronze"
            assert sha(source) == digest


def test_a_file_capability_of_an_adopted_file_goes(servers, tmp_path, user):
    with gold_on(servers, tmp_path, "ext4") as site:
        name, digest, wanted = source_of(site)
        os.setxattr(foreign(site, name), "security.capability", CAPABILITY)
        site.both(workers=1)
        site.post(1, 5000)
        settled(site, 1, name, "gold", digest)
        assert facts(site.paths["gold"] / name) == wanted


def test_an_attribute_that_is_too_large(servers, tmp_path):
    """ext4 says ENOSPC of an attribute that is larger than a block: that is no full level. Dead, with its name, at once;
    others go on."""
    with mounts.image(tmp_path / "levels-disk", "xfs"), mounts.image(tmp_path / "other", "ext4", mkfs=("-b", "4096")), \
            contextlib.closing(make_site(servers, tmp_path / "levels-disk", tmp_path / "other")) as site:
        name, digest = content(site)
        other, other_digest = content(site, 2)
        os.setxattr(site.paths["bronze"] / name, "user.huge", b"x" * 4041)
        worker = site.both(workers=1)
        site.post(1, 5000)
        error = ended_as(site, 1, "dead", name, "bronze", digest)
        assert error == "keep the extended attribute user.huge: it is too large for the target's file system"
        site.post(2, 5000)
        settled(site, 2, other, "gold", other_digest, timeout=5)
        assert worker.count("no space left|will be tried again") == 0 and site.places(name) == ["bronze"]


@pytest.mark.parametrize("error", ["E2BIG", "ERANGE", "EOPNOTSUPP", "ENOSPC"])
def test_an_attribute_that_cannot_be_kept(two_fs, error):
    name, digest = content(two_fs)
    os.setxattr(two_fs.paths["bronze"] / name, "user.note", b"kept")
    worker = two_fs.both(workers=1)
    child, = worker.children()
    with Strace(child, "trace=fsetxattr", f"inject=fsetxattr:error={error}:when=1"):
        two_fs.post(1, 5000)
        assert "keep the extended attribute user.note: " in ended_as(two_fs, 1, "dead", name, "bronze", digest)
    assert two_fs.redis.cli("EXISTS", "tierd:paused") == "0" and two_fs.places(name) == ["bronze"]


@pytest.mark.parametrize("call", ["fsetxattr", "fremovexattr", "fchmod", "fchown"])
def test_a_file_system_that_says_yes_and_drops(servers, tmp_path, call):
    """What the destination holds is read back."""
    with gold_on(servers, tmp_path, "ext4") as site:
        os.setxattr(site.paths["gold"], DEFAULT_ACL, acl(NOBODY))
        name, digest, _ = source_of(site, 4321 if call == "fsetxattr" else None)
        worker = site.both(workers=1)
        child, = worker.children()
        with Strace(child, f"trace={call}", f"inject={call}:retval=0"):
            site.post(1, 5000)
            error = ended_as(site, 1, "dead", name, "bronze", digest)
        assert re.match("(keep|take away) the (extended attribute|mode|owner)", error) and site.places(name) == ["bronze"]


@pytest.mark.parametrize("flag", "ia")
def test_a_file_that_could_not_go_is_not_copied(servers, tmp_path, flag):
    """Immutable, or append-only: put off, with the reason, until somebody takes that off."""
    with gold_on(servers, tmp_path, "ext4") as site:
        name, digest = content(site, level="gold")
        source = site.paths["gold"] / name
        subprocess.run(["chattr", f"+{flag}", source], check=True)
        try:
            worker = site.both(workers=1)
            site.post(1, 0)
            worker.wait_line(r"is put off.*immutable or append-only")
            assert site.places(name) == ["gold"] and site.level(1) == "gold"
        finally:
            subprocess.run(["chattr", f"-{flag}", source], check=True)
        wait_until(lambda: hurry(site, 1) or site.level(1) == "bronze", what="the move")
        settled(site, 1, name, "bronze", digest)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_flags_are_the_sources(servers, tmp_path, user, kind):
    """What a person sets goes along, what the folder hands down does not; tmpfs has no S, and says so."""
    with gold_on(servers, tmp_path, kind) as site:
        subprocess.run(["chattr", "+d", site.paths["gold"]], check=True)
        name, digest = content(site)
        other, other_digest = content(site, 2)
        third, third_digest = content(site, 3)
        subprocess.run(["chattr", "+dA", site.paths["bronze"] / name], check=True)
        subprocess.run(["chattr", "+S", site.paths["bronze"] / third], check=True)
        site.both(workers=1)
        for cid in (1, 2, 3):
            site.post(cid, 5000)
        settled(site, 1, name, "gold", digest)
        settled(site, 2, other, "gold", other_digest)
        assert {*"dA"} & {*flags(site.paths["gold"] / name)} == {*"dA"}
        assert not {*"dA"} & {*flags(site.paths["gold"] / other)}
        if kind == "tmpfs":
            assert "keep the flag S (synchronous): " in ended_as(site, 3, "dead", third, "bronze", third_digest)
        else:
            settled(site, 3, third, "gold", third_digest)
            assert "S" in flags(site.paths["gold"] / third)


def test_times_that_a_file_system_rounds_or_cannot_hold(servers, tmp_path):
    """ext4 with small inodes has whole seconds, up to 2038."""
    with gold_on(servers, tmp_path, "ext4", mkfs=("-I", "128")) as site:
        name, digest = content(site)
        other, other_digest = content(site, 2)
        os.utime(site.paths["bronze"] / name, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
        os.utime(site.paths["bronze"] / other, (4_000_000_000, 4_000_000_000))
        site.both(workers=1)
        site.post(1, 5000)
        settled(site, 1, name, "gold", digest)
        assert os.stat(site.paths["gold"] / name).st_mtime_ns == 1_400_000_000_000_000_000
        site.post(2, 5000)
        assert "keep the times" in ended_as(site, 2, "dead", other, "bronze", other_digest)


# ---- folders ----

def folder_of(site, name, level="bronze", data=None):
    """A content in two folders, the outer with rights of a group's own."""
    site.add(1, name, level, data or os.urandom(100000))
    outer, inner = (site.paths[level] / pathlib.Path(name)).parents[1], (site.paths[level] / name).parent
    os.chown(outer, 1234, 5678)
    os.setxattr(outer, ACL, acl(4321))
    os.setxattr(outer, DEFAULT_ACL, acl(4321, 5))
    os.setxattr(outer, "user.note", b"kept")
    os.chmod(outer, 0o2770)
    os.chmod(inner, 0o1751)
    return outer, inner, sha(site.paths[level] / name)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_folders_are_made_as_at_the_source(servers, tmp_path, user, kind):
    with gold_on(servers, tmp_path, kind) as site:
        name = "2018/07/a.mp4"
        os.setxattr(site.paths["gold"], DEFAULT_ACL, acl(NOBODY))
        outer, inner, digest = folder_of(site, name)
        wanted = [folder_facts(outer), folder_facts(inner)]
        site.both(workers=1)
        site.post(1, 5000)
        settled(site, 1, name, "gold", digest)
        assert [folder_facts(site.paths["gold"] / f) for f in ("2018", "2018/07")] == wanted
        wait_until(lambda: not outer.exists(), what="the emptied folders go")


@pytest.mark.parametrize("call", ["mkdirat", "fchown", "fsetxattr", "fchmod"])
def test_a_folder_whose_maker_was_killed(servers, tmp_path, call):
    """Nobody can look into it until it is what it is to be, and the next attempt makes it so."""
    with gold_on(servers, tmp_path, "ext4") as site:
        name = "2018/07/a.mp4"
        outer, inner, digest = folder_of(site, name)
        wanted = [folder_facts(outer), folder_facts(inner)]
        worker = site.both(workers=1, lease="1s")
        with held(worker, f"{call}:signal=STOP:when=1", lambda: site.post(1, 5000)) as child:
            worker.process.kill()
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: not os.path.exists(f"/proc/{child}"), what="the child's end")
        made = site.paths["gold"] / "2018"
        assert oct(made.stat().st_mode)[-4:] == ("2770" if call == "fchmod" else "1700")
        site.start_worker(workers=1, lease="1s")
        settled(site, 1, name, "gold", digest)
        assert [folder_facts(site.paths["gold"] / f) for f in ("2018", "2018/07")] == wanted


def test_a_folder_that_cannot_be_made_as_at_the_source(servers, tmp_path):
    """Refused with its name, and nothing is left."""
    with mounts.bindfs(tmp_path / "other", "--chown-deny"), \
            contextlib.closing(make_site(servers, tmp_path, tmp_path / "other")) as site:
        name = "2018/07/a.mp4"
        digest = folder_of(site, name)[2]
        site.both(workers=1)
        site.post(1, 5000)
        error = ended_as(site, 1, "dead", name, "bronze", digest)
        assert error == "keep the owner of the folder 2018: Operation not permitted"
        assert os.listdir(site.paths["gold"]) == []


def test_emptied_folders_go_others_stay(site):
    """Up to one that holds something, never the level itself."""
    for cid, name in enumerate(("a/b/c/1.bin", "a/b/2.bin", "x/y/3.bin", "4.bin"), 1):
        site.add(cid, name, "bronze", os.urandom(1000))
    (site.paths["bronze"] / "x/empty").mkdir()
    site.both(workers=1)
    for cid in (1, 3, 4):
        site.post(cid, 5000)
    wait_until(lambda: all(site.level(cid) == "gold" for cid in (1, 3, 4)) and site.redis.cli("KEYS", "tierd:job:*") == "",
               what="all finished")
    bronze = site.paths["bronze"]
    assert sorted(str(p.relative_to(bronze)) for p in bronze.rglob("*")) == ["a", "a/b", "a/b/2.bin", "x", "x/empty"]
    site.post(2, 5000)
    wait_until(lambda: site.level(2) == "gold" and site.redis.cli("KEYS", "tierd:job:*") == "", what="all finished")
    assert sorted(str(p.relative_to(bronze)) for p in bronze.rglob("*")) == ["x", "x/empty"]


def test_empty_folders_are_kept_when_asked(site):
    site.add(1, "a/b/1.bin", "bronze", b"content")
    site.start_api()
    site.start_worker("--keep-empty-dirs=yes")
    site.post(1, 5000)
    wait_until(lambda: site.level(1) == "gold" and site.redis.cli("KEYS", "tierd:job:*") == "", what="finished")
    assert (site.paths["bronze"] / "a/b").is_dir()


def test_a_folder_that_another_move_is_about_to_use_stays(two_fs):
    """Two contents in a folder of gold's: one goes, and empties it, while the other one is still on its way there."""
    site = two_fs
    site.add(1, "f/1.bin", "bronze", os.urandom(100000))
    site.add(2, "f/2.bin", "gold", os.urandom(100000))
    digest = sha(site.paths["bronze"] / "f/1.bin")
    first = site.both(workers=1)
    with held(first, COPIED, lambda: site.post(1, 5000)):
        site.start_worker(workers=1)
        site.post(2, 1500)
        wait_until(lambda: site.level(2) == "silver" and site.redis.cli("EXISTS", "tierd:job:2") == "0", what="the other move")
        assert (site.paths["gold"] / "f").is_dir()
    settled(site, 1, "f/1.bin", "gold", digest)
    assert first.count("tried again|put off") == 0


@pytest.mark.parametrize("at", [COPIED, DURABLE, "openat:signal=STOP:when=12"])
def test_a_folder_that_goes_under_a_move(two_fs, at):
    """By hand, or by another host: it is made anew, and no attempt is counted."""
    site = two_fs
    site.add(1, "f/1.bin", "bronze", os.urandom(100000))
    digest = sha(site.paths["bronze"] / "f/1.bin")
    (site.paths["gold"] / "f").mkdir()
    worker = site.both(workers=1)
    with held(worker, at, lambda: site.post(1, 5000)):
        with contextlib.suppress(OSError):
            (site.paths["gold"] / "f").rmdir()
    settled(site, 1, "f/1.bin", "gold", digest)
    assert worker.count("tried again|put off") == 0


# ---- room ----

def metric(site, name):
    text = site.request("GET", "/metrics").body
    return int(re.search(rf"^{re.escape(name)} (\d+)$", text, re.M)[1])


def status(site):
    out = subprocess.run([harness.servers.TIERD, "status", *site.common()], check=True, capture_output=True, text=True)
    return out.stdout


def explain(site, cid):
    words = [harness.servers.TIERD, "explain", str(cid), *site.common()]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_only_what_does_not_fit_waits(servers, tmp_path):
    """A file of 60 MiB that lacks 4 KiB, and twenty small ones behind it."""
    with gold_on(servers, tmp_path, "tmpfs", size=80 * 2**20) as site:
        large, digest = content(site, 1, data=os.urandom(60 * 2**20))
        small = {cid: content(site, cid, data=os.urandom(300)) for cid in range(2, 22)}
        free = os.statvfs(site.paths["gold"])
        ballast = site.paths["gold"].parent / "ballast"
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 60 * 2**20 + 4096))
        worker = site.both(workers=1)
        site.post(1, 5000)
        worker.wait_line("no space left in gold: needs 60 MiB, has 59.9 MiB")
        began = time.monotonic()
        for cid in small:
            site.post(cid, 5000)
        for cid, (name, small_digest) in small.items():
            settled(site, cid, name, "gold", small_digest)
        assert time.monotonic() - began < 15
        assert site.redis.cli("EXISTS", "tierd:paused") == "0"
        wait_until(lambda: metric(site, 'tierd_jobs_without_room{level="gold"}') == 1, what="the metric")
        assert metric(site, 'tierd_level_full{level="gold"}') == 0
        assert "HELD    1 job: no space left in gold: needs 60 MiB, has 59." in status(site)
        assert re.search("tried again in [0-9]+ s: no space left in gold: needs 60 MiB, has 59.", explain(site, 1))
        assert site.redis.cli("HGET", "tierd:job:1", "attempts") in ("", "0")
        ballast.unlink()
        hurry(site, 1)
        settled(site, 1, large, "gold", digest)
        assert site.redis.cli("EXISTS", "tierd:short:gold") == "0"
        assert "HELD" not in status(site)


def test_a_full_level_says_so(servers, tmp_path):
    with gold_on(servers, tmp_path, "tmpfs", size=2**20) as site:
        name, digest = content(site, data=os.urandom(30000))
        ballast = site.paths["gold"].parent / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb") as f:
            while True:
                f.write(bytes(4096))
        worker = site.both(workers=1)
        site.post(1, 5000)
        worker.wait_line("no space left in gold: needs 32 KiB, has 0 B")
        wait_until(lambda: "HELD    1 job: gold is full: needs 32 KiB, has 0 B" in status(site), what="it waits for gold")
        assert "the level gold is full: needs 32 KiB, has 0 B; it goes on in " in explain(site, 1)
        time.sleep(1.1)  # /metrics is at most a second old
        assert metric(site, 'tierd_level_full{level="gold"}') == 1
        ballast.unlink()
        site.redis.cli("HSET", "tierd:paused", "gold", "1")
        site.redis.cli("LPUSH", "tierd:wake", "1")
        settled(site, 1, name, "gold", digest)
        assert site.redis.cli("EXISTS", "tierd:full") == "0"


def test_blocks_behind_the_end_need_no_room(servers, tmp_path):
    """Preallocated by whoever wrote the file; a copy has none."""
    with gold_on(servers, tmp_path, "tmpfs", size=8 * 2**20) as site:
        name, digest = content(site, data=os.urandom(2**20))
        subprocess.run(["fallocate", "-n", "-o", str(2**20), "-l", str(32 * 2**20), site.paths["bronze"] / name], check=True)
        assert os.stat(site.paths["bronze"] / name).st_blocks * 512 > 8 * 2**20
        site.both(workers=1)
        site.post(1, 5000)
        settled(site, 1, name, "gold", digest, timeout=10)


def test_a_reflink_needs_no_room(servers, tmp_path):
    """Two subvolumes of one btrfs, with less room left than the file is long."""
    with mounts.image(tmp_path / "disk", "btrfs", size=512 * 2**20) as disk:
        for name in ("fast", "slow"):
            subprocess.run(["btrfs", "subvolume", "create", disk / name], check=True, capture_output=True)
        with contextlib.closing(make_site(servers, disk / "slow", disk / "fast")) as site:
            name, digest = content(site, data=os.urandom(200 * 2**20))
            os.sync()
            free = os.statvfs(disk)
            subprocess.run(["fallocate", "-l", str(free.f_bavail * free.f_frsize - 60 * 2**20), disk / "ballast"], check=True)
            free = os.statvfs(disk)
            assert free.f_bavail * free.f_frsize < 200 * 2**20
            site.both(workers=1)
            site.post(1, 5000)
            settled(site, 1, name, "gold", digest)


@pytest.mark.parametrize("call", ["pwrite64", "fchown"])
def test_a_quota_holds_up_its_owners_files_alone(two_fs, call):
    """EDQUOT is of one owner: his job waits by itself, those of others go on."""
    name, digest = content(two_fs)
    other, other_digest = content(two_fs, 2)
    os.chown(two_fs.paths["bronze"] / name, 1234, 1234)
    worker = two_fs.both(workers=1)
    child, = worker.children()
    with Strace(child, f"trace={call}", f"inject={call}:error=EDQUOT:when=1"):
        two_fs.post(1, 5000)
        worker.wait_line("no space left in gold: needs 100 KiB, a quota does not allow it")
    two_fs.post(2, 5000)
    settled(two_fs, 2, other, "gold", other_digest, timeout=5)
    assert two_fs.level(1) == "bronze" and two_fs.redis.cli("EXISTS", "tierd:paused") == "0"
    hurry(two_fs, 1)
    settled(two_fs, 1, name, "gold", digest)
