"""Levels on file systems that lack something: unnamed files, links, a rename that replaces nothing, owners, attributes.

Where they lack only some of it, lanes.py moves into and out of them with a fault at every call.
"""
import contextlib
import hashlib
import os
import re
import shutil
import signal

import mounts
import pytest
from conftest import make_site, sha, wait_until
from harness.strace import Strace, available
from holding import DURABLE, STANDS, check, content, ended_as, held, hurry, settled

pytestmark = [pytest.mark.skipif(available() is not None, reason=str(available())),
              pytest.mark.skipif(mounts.fuse_available() is not None, reason=str(mounts.fuse_available()))]


@contextlib.contextmanager
def gold_on(servers, tmp_path, mounting):
    with mounting, contextlib.closing(make_site(servers, tmp_path, tmp_path / "other")) as site:
        yield site


def until_dead(site, cid):
    wait_until(lambda: hurry(site, cid) or site.job(cid)["status"] == "dead", 60, f"dead (it is {site.job(cid)})")


@pytest.mark.parametrize("lacks,options", [("the owner", ("--chown-deny",)), ("the mode", ("--chmod-deny",)),
                                           ("the extended attribute user.note", ("--xattr-none",)),
                                           ("the owner", ("--chown-ignore", "--chgrp-ignore")),
                                           ("the owner", ("--chgrp-ignore",)), ("the mode", ("--chmod-ignore",))],
                         ids=["owner", "mode", "attributes", "owner silently", "group silently", "mode silently"])
def test_what_a_file_system_cannot_hold_is_named(servers, tmp_path, lacks, options):
    """A copy that would lose its owner, mode or attributes is not made, even where the file system says that it kept
    them: the reason says which, nothing is left."""
    with gold_on(servers, tmp_path, mounts.bindfs(tmp_path / "other", *options)) as site:
        name, digest = content(site)
        source = site.paths["bronze"] / name
        os.chown(source, 1234, 5678)
        os.chmod(source, 0o640)
        os.setxattr(source, "user.note", b"kept")
        worker = site.both(workers=1)
        site.post(1, 5000)
        until_dead(site, 1)
        error = ended_as(site, 1, "dead", name, "bronze", digest)
        assert f"keep {lacks}: " in error and site.places(name) == ["bronze"], error
        assert worker.count("will be tried again") == 0, "it does not get better by itself"
        seen = os.stat(source)
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (1234, 5678, 0o640)


def test_into_a_file_system_that_can_publish_nothing_safely(servers, tmp_path):
    """exFAT as a file system in user space: neither a link nor a rename that replaces nothing. Refused, at once."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site)
        site.both(workers=1)
        site.post(1, 5000)
        error = ended_as(site, 1, "dead", name, "bronze", digest)
        assert "can link neither nor rename without replacing" in error and site.places(name) == ["bronze"]


def test_out_of_a_file_system_that_can_rename_nothing_safely(servers, tmp_path):
    """The content moves; its old copy, which no rename can put aside without risk, goes through a folder of our own."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site, level="gold")
        worker = site.both(workers=1)
        child, = worker.children()
        with Strace(child, "trace=mkdirat,renameat") as trace:
            site.post(1, 0)
            settled(site, 1, name, "bronze", digest)
            assert [call for call, _ in trace.calls()] == ["mkdirat", "renameat"]
        assert worker.count("is left") == 0


@pytest.mark.parametrize("at", ["mkdirat", "renameat", "unlinkat"])
def test_a_retirement_into_a_folder_that_was_killed(servers, tmp_path, at):
    """Killed with the folder empty, with the copy in it, with the copy gone: another worker ends it."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site, level="gold")
        worker = site.both(workers=1, lease="1s")
        other, of_other = content(site, 2, level="gold")  # the first job has the levels looked at, with probes of their own
        site.post(2, 0)
        settled(site, 2, other, "bronze", of_other)
        when = 2 if at == "unlinkat" else 1  # the first one takes the probe of this move away
        with held(worker, f"{at}:signal=STOP:when={when}", lambda: site.post(1, 0)) as child:
            assert (site.paths["gold"] / ".tierd-old.1").is_dir()
            assert "leftover" not in check(site)  # a job is under way
            os.kill(child, signal.SIGKILL)
        settled(site, 1, name, "bronze", digest)


def test_a_reader_has_the_old_copy_open(servers, tmp_path):
    """Such file systems keep a hidden name for what is open: the folder goes once the reader has closed it."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site, level="gold")
        worker = site.both(workers=1)
        with open(site.paths["gold"] / name, "rb") as reader:
            site.post(1, 0)
            worker.wait_line(f"{name} in gold is left: the file is locked")
            assert hashlib.sha256(reader.read()).hexdigest() == digest
        wait_until(lambda: hurry(site, 1) or site.leftovers() == [], what="the folder goes")
        settled(site, 1, name, "bronze", digest)


def test_a_retirement_into_a_folder_that_is_no_longer_wanted(servers, tmp_path):
    """Somebody corrected the row by hand in between. What is in the folder cannot be taken out again without a risk for
    what may have the name by then: it stays, whole, and is named; by then nobody else needs it."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site, level="gold")
        worker = site.both(workers=1, lease="5s")
        with held(worker, "renameat:signal=STOP:when=1", lambda: site.post(1, 0)):
            shutil.copy(site.paths["bronze"] / name, site.paths["silver"] / name)
            site.db.sql("UPDATE contents SET content_level = 'silver' WHERE cid = 1")
        worker.wait_line(f"{name} in gold is left as .tierd-old.1")
        wait_until(lambda: site.redis.cli("EXISTS", "tierd:job:1", "lock:1") == "0", what="the end of the job")
        kept = site.paths["gold"] / ".tierd-old.1" / ".tierd-old.1"
        assert sha(kept) == sha(site.paths["silver"] / name) == digest
        assert re.search(rf"^leftover +1 +.*in gold", check(site), re.M)
        check(site, "--repair")
        wait_until(lambda: site.leftovers() == [] and site.places(name) == ["silver"], 30, "a worker takes them away")
        assert sha(site.paths["silver"] / name) == digest


def test_a_folder_that_a_retirement_left_in_the_level_of_the_content(servers, tmp_path):
    """Only a hand could bring the content back there. The folder goes when it is empty, or holds the same."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site, level="gold")
        left = site.paths["gold"] / ".tierd-old.1"
        left.mkdir()
        assert "it is an empty folder" in check(site) and left.exists()
        assert "it is removed" in check(site, "--repair") and not left.exists()
        left.mkdir()
        shutil.copy(site.paths["gold"] / name, left / left.name)
        assert "the same as the content beside it" in check(site)
        assert "it is removed" in check(site, "--repair") and not left.exists()
        left.mkdir()
        (site.paths["gold"] / name).rename(left / left.name)
        assert "the content itself is missing beside it" in check(site, "--repair")
        assert sha(left / left.name) == digest


@pytest.mark.skipif(mounts.pools_available() is not None, reason=str(mounts.pools_available()))
def test_an_unwanted_copy_goes_whatever_its_number_is(servers, tmp_path):
    """mergerfs numbers a file anew when its name is given by a link, or when the kernel forgot it. When the copy stands, the
    content is wanted back where it is: nothing will adopt that copy."""
    pool = mounts.mergerfs(tmp_path / "other", tmp_path / "a", tmp_path / "b")
    with gold_on(servers, tmp_path, pool) as site:
        name, digest = content(site)
        worker = site.both(workers=1)
        with held(worker, STANDS, lambda: site.post(1, 5000)):
            assert site.post(1, 0).status == 200 and site.places(name) == ["bronze", "gold"]
        settled(site, 1, name, "bronze", digest, timeout=20)


@pytest.mark.parametrize("then,level", [(1500, "silver"), (0, "bronze"), (5000, "gold")], ids=["elsewhere", "stays", "there"])
def test_the_temporary_name_of_a_killed_worker_goes(servers, tmp_path, then, level):
    """Wherever the content is wanted by then: nobody goes to the old target any more but for that."""
    with gold_on(servers, tmp_path, mounts.bindfs(tmp_path / "other")) as site:
        name, digest = content(site)
        worker = site.both(workers=1, lease="1s")
        with held(worker, DURABLE, lambda: site.post(1, 5000)) as child:
            assert (site.paths["gold"] / ".tierd-tmp.1").exists()
            assert site.post(1, then).status == 200
            os.kill(child, signal.SIGKILL)
        settled(site, 1, name, level, digest)
