"""Levels on file systems that lack something: unnamed files, links, a rename that replaces nothing, owners, attributes.

Where they lack only some of it, lanes.py moves into and out of them with a fault at every call.
"""
import contextlib
import os

import mounts
import pytest
from conftest import make_site, sha, wait_until
from harness.strace import available
from holding import content, ended_as, hurry, settled

pytestmark = [pytest.mark.skipif(available() is not None, reason=str(available())),
              pytest.mark.skipif(mounts.fuse_available() is not None, reason=str(mounts.fuse_available()))]


@contextlib.contextmanager
def gold_on(servers, tmp_path, mounting):
    with mounting, contextlib.closing(make_site(servers, tmp_path, tmp_path / "other")) as site:
        yield site


def until_dead(site, cid):
    wait_until(lambda: hurry(site, cid) or site.job(cid)["status"] == "dead", 60, f"dead (it is {site.job(cid)})")


@pytest.mark.parametrize("lacks,options", [("the owner", ("--chown-deny",)), ("the mode", ("--chmod-deny",)),
                                           ("an extended attribute", ("--xattr-none",)),
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
        assert worker.count("will be tried again") == 4
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
    """The content moves; its old copy, which cannot be put aside without risk, goes or is left whole, and named."""
    with gold_on(servers, tmp_path, mounts.exfat(tmp_path / "other")) as site:
        name, digest = content(site, level="gold")
        worker = site.both(workers=1)
        site.post(1, 0)
        wait_until(lambda: site.level(1) == "bronze", 30, "the commit")
        assert sha(site.paths["bronze"] / name) == digest
        wait_until(lambda: worker.count(f"{name} in gold is left: ") or site.places(name) == ["bronze"], 30, "its end")
        if site.places(name) == ["bronze"]:
            settled(site, 1, name, "bronze", digest)
        else:
            assert sha(site.paths["gold"] / name) == digest and site.leftovers() == []
