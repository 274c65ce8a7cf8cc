"""Levels that show the same file: by another mount, another name, another file system. The one file must not be taken for
two copies, whoever looks: a move up, a move down, `tierd check --repair`. And pools that only look alike, which must move.
"""
import contextlib
import hashlib
import os
import subprocess

import mounts
import pytest
from conftest import make_site, sha, wait_until
from harness.pipes import Sql
from harness.servers import TIERD
from harness.strace import available
from holding import COMMITTING, STANDS, check, content, held, hurry, settled

pytestmark = [pytest.mark.skipif(available() is not None, reason=str(available())),
              pytest.mark.skipif(mounts.pools_available() is not None, reason=str(mounts.pools_available()))]

SAID = "show the same file"      # in what is said of such levels
NAMES = {1: "1.bin", 2: "sub/2.bin"}
CACHES = "cache.entry=30,cache.attr=30,cache.negative_entry=30,cache.files=auto-full,cache.readdir=true"


# ---- pairs of levels ----

class Pair:
    """Levels of a site that show what lies in `files`. A view is a function that mounts it, of where it is to be."""

    def __init__(self, site, files, **views):
        self.site, self.files, self.views = site, files, views
        self.stack = contextlib.ExitStack()
        files.mkdir(parents=True, exist_ok=True)
        self.mount()

    def mount(self):
        for level, view in self.views.items():
            self.site.paths[level] = self.stack.enter_context(view(self.site.folder / f"{level}-view"))
            self.site.db.sql(f"UPDATE level SET path = '{self.site.paths[level]}' WHERE level = '{level}'")

    def close(self):
        self.stack.close()

    def remount(self):
        """What is seen from now on comes from no cache."""
        self.close()
        self.mount()

    def add(self, level):
        """Contents in a row of `level`; their hashes."""
        hashes = {}
        for cid, name in NAMES.items():
            data = os.urandom(100000)
            path = self.files / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            self.site.add(cid, name, level)
            hashes[cid] = hashlib.sha256(data).hexdigest()
        return hashes


def pool_of(site, options=""):
    """The level is one of two branches; what the pool makes goes into the other."""
    return lambda where: mounts.mergerfs(where, site.folder / "branch", site.paths["bronze"], options=options)


def link_to(site):
    """A symbolic link on the way to the path of a level: at its root, for below one none is followed."""
    @contextlib.contextmanager
    def linked(where):
        where.symlink_to(where.parent)
        try:
            yield where / "bronze"
        finally:
            where.unlink()

    site.roots.insert(0, str(site.folder / "gold-view"))
    return linked


def two_pools(site):
    shared = site.folder / "shared"
    return Pair(site, shared, bronze=lambda where: mounts.mergerfs(where, site.folder / "first", shared),
                gold=lambda where: mounts.mergerfs(where, site.folder / "second", shared))


def of_bronze(view):
    """A pair of a level and something that shows it: `view` of the site makes it."""
    return lambda site: Pair(site, site.paths["bronze"], gold=view(site))


PAIRS = {
    "pool": of_bronze(pool_of),
    "pool with caches": of_bronze(lambda site: pool_of(site, CACHES)),
    "pool without caches": of_bronze(lambda site: pool_of(site, "cache.entry=0,cache.attr=0")),
    "two pools": two_pools,
    "bindfs": of_bronze(lambda site: lambda where: mounts.bindfs(where, data=site.paths["bronze"])),
    "sshfs": of_bronze(lambda site: lambda where: mounts.sshfs(where, site.paths["bronze"])),
    "overlay above": of_bronze(lambda site: lambda where: mounts.overlay(where, upper=site.paths["bronze"])),
    "overlay below": of_bronze(lambda site: lambda where: mounts.overlay(where, lower=site.paths["bronze"])),
    "bind mount": of_bronze(lambda site: lambda where: mounts.bound(where, site.paths["bronze"])),
    "symbolic link": of_bronze(link_to),
}
IN_PART = ("pool", "bindfs")
EACH = [pytest.param(name, marks=() if name in IN_PART else pytest.mark.full_only) for name in PAIRS]
UP, DOWN = ("bronze", 5000), ("gold", 0)
BOTH_WAYS = pytest.mark.parametrize("level,count", [UP, DOWN], ids=["promote", "demote"])


@contextlib.contextmanager
def aliased(servers, tmp_path, kind):
    site = make_site(servers, tmp_path)
    pair = None
    try:
        pair = PAIRS[kind](site)
        yield pair
    finally:
        site.close()
        if pair:
            pair.close()


# ---- the oracle ----

class Reader:
    """Follows the database, at every moment that it is asked."""

    def __init__(self, site, hashes, names=None):
        self.site, self.hashes, self.names = site, hashes, names or NAMES
        self.sql = Sql(site.db)

    def level(self, cid):
        return self.sql(f"SELECT content_level FROM contents WHERE cid = {cid}")[0][0]

    def look(self):
        for cid, digest in self.hashes.items():
            while True:
                level = self.level(cid)
                try:
                    assert sha(self.site.paths[level] / self.names[cid]) == digest, f"{cid} in {level} is another"
                    break
                except FileNotFoundError:
                    assert level != self.level(cid), f"{cid} is lost: nothing stands in {level}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sql.close()


def quiet(site):
    """Nothing waits; what is put off is hurried."""
    due = site.redis.cli("ZRANGE", "tierd:due", "0", "-1").split()
    for cid in due:
        hurry(site, cid)
    return not due and site.redis.cli("KEYS", "lock:*") == ""


def refused(reader, worker, cid):
    """The job ends dead, or is put off; either way it is said why."""
    site = reader.site

    def over():
        reader.look()
        return site.job(cid)["status"] != "update" or worker.count(SAID)

    wait_until(over, 60, f"an end of job {cid}")
    assert site.job(cid)["status"] != "done", f"done, though both levels are one: {site.job(cid)}"
    assert says(site.job(cid).get("error", "")) or worker.count(SAID), f"no reason: {site.job(cid)}"


def says(text):
    return SAID in text


def explain(site, cid):
    return subprocess.run([TIERD, "explain", str(cid), *site.common()], capture_output=True, text=True, check=True).stdout


def repair(reader):
    """`tierd check --repair`, and workers that judge what it hands over; what it said."""
    site = reader.site
    said = check(site, "--repair")

    def over():
        reader.look()
        return quiet(site)

    wait_until(over, 60, "all that was handed over is judged")
    return said


def all_stands(pair, reader):
    """At the end, with all caches gone; and nothing of ours is left."""
    pair.remount()
    reader.look()
    assert pair.site.leftovers() == []


# ---- levels that show the same file ----

@BOTH_WAYS
@pytest.mark.parametrize("kind", EACH)
def test_a_move_between_levels_that_show_the_same_file(servers, tmp_path, kind, level, count):
    """Refused with the reason; where the file stands, it stays, also when everything is looked at and mended afterwards."""
    with aliased(servers, tmp_path, kind) as pair, Reader(pair.site, pair.add(level)) as reader:
        worker = pair.site.both()
        for cid in NAMES:
            pair.site.post(cid, count)
        if kind == "overlay below" and level == "gold":
            # What is taken away in an overlay is only hidden there: a move down is a good one, too.
            wait_until(lambda: reader.look() or all(pair.site.job(cid)["status"] != "update" for cid in NAMES), 60, "the end")
        else:
            for cid in NAMES:
                refused(reader, worker, cid)
                assert says(explain(pair.site, cid)) and pair.site.level(cid) == level
        repair(reader)
        all_stands(pair, reader)


@pytest.mark.parametrize("level", ["bronze", "gold"])
@pytest.mark.parametrize("kind", EACH)
def test_check_and_levels_that_show_the_same_file(servers, tmp_path, kind, level):
    """No second copy: nobody takes it away, and it is said why, by check or by the worker that looks at it."""
    with aliased(servers, tmp_path, kind) as pair, Reader(pair.site, pair.add(level)) as reader:
        worker = pair.site.both()
        for _ in range(2):
            assert says(repair(reader)) or worker.count(SAID)
        all_stands(pair, reader)


@pytest.mark.parametrize("level,count", [UP, pytest.param(*DOWN, marks=pytest.mark.full_only)], ids=["promote", "demote"])
def test_marked_levels_that_show_the_same_file(servers, tmp_path, level, count):
    """Both have the right marker, for a pool shows that of its first branch."""
    with aliased(servers, tmp_path, "pool") as pair:
        site = pair.site
        pair.close()  # before the pool is made, or init-level would see what it is
        site.db.sql(f"UPDATE level SET path = '{site.folder / 'branch'}' WHERE level = 'gold'")
        subprocess.run([TIERD, "init-level", "gold", "bronze", "silver", *[f"--root={r}" for r in site.roots], *site.common()],
                       check=True, capture_output=True)
        pair.mount()
        with Reader(site, pair.add(level)) as reader:
            site.start_api()
            worker = site.start_worker("--require-markers=yes")
            site.post(1, count)
            refused(reader, worker, 1)
            repair(reader)
            all_stands(pair, reader)


def test_from_and_to_an_aliased_pair(servers, tmp_path):
    """Neither of such levels is lost for others: a third one takes from them, and gives to them."""
    with aliased(servers, tmp_path, "pool") as pair, Reader(pair.site, pair.add("bronze")) as reader:
        site = pair.site
        site.both()
        for cid in NAMES:
            site.post(cid, 1500)
        wait_until(lambda: reader.look() or all(reader.level(cid) == "silver" for cid in NAMES), what="the moves to silver")
        wait_until(lambda: reader.look() or quiet(site), what="the end")
        assert not any((pair.files / name).exists() for name in NAMES.values())
        for cid, count in zip(NAMES, (5000, 0)):
            site.post(cid, count)
        wait_until(lambda: reader.look() or [reader.level(cid) for cid in NAMES] == ["gold", "bronze"], what="the moves away")
        wait_until(lambda: reader.look() or quiet(site), what="the end")
        assert not any((site.paths["silver"] / name).exists() for name in NAMES.values())
        all_stands(pair, reader)


# ---- levels that come to show the same file while it moves ----

LOOKED = "flock:signal=STOP:when=1"  # the levels are open and looked at, the destination's name not yet


@contextlib.contextmanager
def becoming(servers, tmp_path, gold=None):
    """A content that is about to move from bronze to gold, and a stack for what is mounted meanwhile."""
    with contextlib.ExitStack() as stack, contextlib.closing(make_site(servers, tmp_path)) as site:
        if gold:
            site.paths["gold"] = stack.enter_context(gold(site))
            site.db.sql(f"UPDATE level SET path = '{site.paths['gold']}' WHERE level = 'gold'")
        name, digest = content(site)
        with Reader(site, {1: digest}, {1: name}) as reader:
            yield site, reader, stack
            site.close()


def ended_whole(site, reader):
    """A moment without the file is allowed while it is put back; then it stands, for as long as this is so. The job ends, or
    waits and says why."""
    def over():
        hurry(site, 1)
        return quiet(site) or site.job(1)["status"] == "dead" or site.running[-1].count(f"{SAID}|is left")

    wait_until(over, 30, "the end of the job")
    for _ in range(20):
        hurry(site, 1)
        reader.look()


@pytest.mark.parametrize("at", [STANDS, COMMITTING], ids=["published", "done"])
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.full_only)], ids=["", "killed"])
def test_the_destination_becomes_the_source(servers, tmp_path, at, killed):
    """Somebody mounts the source's directory over the destination, between the copy and the retirement."""
    with becoming(servers, tmp_path) as (site, reader, stack):
        site.both(workers=1, lease="1s")
        bronze, gold = site.paths["bronze"], site.paths["gold"]
        worker = site.running[-1]
        with held(worker, at, lambda: site.post(1, 5000)):
            stack.enter_context(mounts.bindfs(gold, "-o", "nonempty", data=bronze))
            assert (gold / "1.bin").read_bytes() == (bronze / "1.bin").read_bytes()  # and is in caches from now on
            if killed:
                worker.stop(9)
        if killed:
            site.start_worker(workers=1, lease="1s")
        ended_whole(site, reader)


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@pytest.mark.full_only
def test_the_source_becomes_the_destination(servers, tmp_path, killed):
    """Somebody mounts the destination over the source's directory: what seems to be the old copy is the new one."""
    with becoming(servers, tmp_path) as (site, reader, stack):
        site.both(workers=1, lease="1s")
        worker = site.running[-1]
        with held(worker, COMMITTING, lambda: site.post(1, 5000)):
            stack.enter_context(mounts.bindfs(site.paths["bronze"], "-o", "nonempty", data=site.paths["gold"]))
            assert sha(site.paths["bronze"] / "1.bin") == sha(site.paths["gold"] / "1.bin")
            if killed:
                worker.stop(9)
        if killed:
            site.start_worker(workers=1, lease="1s")
        ended_whole(site, reader)


@pytest.mark.parametrize("at", [LOOKED, STANDS, COMMITTING], ids=["looked at", "published", "done"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_branch_is_added_while_a_file_moves(servers, tmp_path, at, first, full):
    """The source's directory becomes a branch of the pool that the file moves into."""
    if not full and (at, first) != (LOOKED, True):
        pytest.skip("only in the full run")
    with becoming(servers, tmp_path, lambda site: mounts.mergerfs(site.folder / "pool", site.folder / "fast")) as (
            site, reader, _):
        worker = site.both(workers=1, lease="1s")
        with held(worker, at, lambda: site.post(1, 5000)):
            mounts.add_branch(site.paths["gold"], site.paths["bronze"], first)
        ended_whole(site, reader)


# ---- one file, two names ----

@pytest.mark.full_only
def test_names_that_differ_in_case_alone(servers, tmp_path):
    """On exFAT, `A.mp4` is `a.mp4`: the other row's file is not the copy of this one, though the bytes are the same."""
    with mounts.exfat(tmp_path / "other"), contextlib.closing(make_site(servers, tmp_path, tmp_path / "other")) as site:
        data = os.urandom(50000)
        digest = hashlib.sha256(data).hexdigest()
        site.add(1, "A.mp4", "bronze", data)
        site.add(2, "a.mp4", "gold", data)
        assert (site.paths["gold"] / "A.mp4").exists()
        with Reader(site, {1: digest, 2: digest}, {1: "A.mp4", 2: "a.mp4"}) as reader:
            site.both(workers=1)
            site.post(1, 5000)
            wait_until(lambda: reader.look() or site.job(1)["status"] != "update", 60, "the end of the job")
            assert site.job(1)["status"] in ("dead", "conflict") and site.level(1) == "bronze"
            site.post(2, 0)
            wait_until(lambda: reader.look() or quiet(site), 60, "the end of all")
            repair(reader)
            assert reader.level(2) == "bronze" and sha(site.paths["bronze"] / "A.mp4") == digest


@pytest.mark.full_only
def test_a_level_within_another(servers, tmp_path):
    """A level that shows the folder above another: a row that names the same file through it must not lose it."""
    with contextlib.closing(make_site(servers, tmp_path)) as site:
        site.paths["bronze"] = site.folder / "above" / "bronze"  # the mount itself lies elsewhere: no folder is to be endless
        site.db.sql(f"UPDATE level SET path = '{site.paths['bronze']}' WHERE level = 'bronze'")
        pair = Pair(site, site.paths["bronze"], gold=lambda where: mounts.bindfs(where, data=site.folder / "above"))
        try:
            name, digest = content(site)
            site.add(2, f"bronze/{name}", "gold")
            with Reader(site, {1: digest, 2: digest}, {1: name, 2: f"bronze/{name}"}) as reader:
                worker = site.both(workers=1)
                site.post(1, 1500)
                wait_until(lambda: reader.look() or site.job(1)["status"] != "update" or worker.count("overlap|is put off"), 60,
                           "a word of the levels")
                assert site.job(1)["status"] != "done"
                assert "overlap" in check(site, "--repair")
                for _ in range(20):  # it waits for as long as this is so
                    hurry(site, 1)
                    reader.look()
                all_stands(pair, reader)
        finally:
            site.close()
            pair.close()


# ---- pools that share nothing ----

@pytest.mark.parametrize("options", ["", pytest.param(CACHES, marks=pytest.mark.full_only)], ids=["", "with caches"])
def test_pools_that_share_no_branch(servers, tmp_path, options):
    """A cache pool and a slow pool as levels, and a pool above both for readers, which is no level."""
    with contextlib.ExitStack() as stack, contextlib.closing(make_site(servers, tmp_path)) as site:
        fast, slow = [site.folder / f"fast{n}" for n in (1, 2)], [site.folder / f"slow{n}" for n in (1, 2)]
        for level, branches in (("gold", fast), ("bronze", slow)):
            site.paths[level] = stack.enter_context(mounts.mergerfs(site.folder / f"{level}-pool", *branches, options=options))
            site.db.sql(f"UPDATE level SET path = '{site.paths[level]}' WHERE level = '{level}'")
        above = stack.enter_context(mounts.mergerfs(tmp_path / "above", *fast, *slow))
        digests = {}
        for cid in range(1, 9):
            data, name = os.urandom(3000 * cid), f"folder {cid % 3}/{cid}.bin"
            place = slow[cid % 2] / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            site.add(cid, name, "bronze")
            digests[cid] = name, hashlib.sha256(data).hexdigest()
        subprocess.run([TIERD, "init-level", "gold", "bronze", "silver", *[f"--root={r}" for r in site.roots], *site.common()],
                       check=True, capture_output=True)
        site.start_api()
        worker = site.start_worker("--require-markers=yes")
        for level, count in (("gold", 5000), ("bronze", 0), ("silver", 1500), ("gold", 5000)):
            for cid in digests:
                site.post(cid, count)
            for cid, (name, digest) in digests.items():
                settled(site, cid, name, level, digest)
                if level != "silver":
                    assert sha(above / name) == digest
        assert worker.count("is left|tried again|put off") == 0
        assert "0 findings" in check(site)
        site.close()
