"""Levels that are not apart: pools and branches, binds, overlays, links on the way, one level within another.

Nothing moves between them, and nothing is lost: the content stands where the database says, as it was."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import sha, wait_until
from harness.servers import TIERD
from mounts import fuse, mounted

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
NAME, DATA = "sub/x.mp4", b"the only copy" * 100
POOL = 5000  # the count from which a content belongs to the further level


def need(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if missing or not pathlib.Path("/dev/fuse").exists():
        pytest.skip(f"not installed: {missing or '/dev/fuse'}")


def bindfs(where, below):
    need("bindfs")
    return fuse(where, "bindfs", "-f", below, where)


def mergerfs(where, *branches, options="category.create=ff"):
    need("mergerfs")
    return fuse(where, "mergerfs", "-f", "-o", options, ":".join(map(str, branches)), where)


@contextlib.contextmanager
def overlay(where, upper):
    """An overlay of the kernel over a level; the kernel wants the upper folder on a file system that is not one itself."""
    lower, work = where.with_name("lower"), upper.with_name("work")
    lower.mkdir()
    work.mkdir(exist_ok=True)
    try:
        mount = mounted(where, "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay")
        with mount:
            yield where
    except subprocess.CalledProcessError as e:
        pytest.skip(f"no overlay here: {e.stderr}")


@contextlib.contextmanager
def fuse_overlay(where, upper):
    need("fuse-overlayfs")
    lower, work = where.with_name("lower"), upper.with_name("work")
    lower.mkdir()
    work.mkdir(exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    with fuse(where, "fuse-overlayfs", "-f", "-o", options, where):
        yield where


def bind(where, below):
    return mounted(where, "--bind", below)


@contextlib.contextmanager
def link_on_the_way(where, below):
    """The folder that holds the levels has a second name, and is a root under both."""
    link = below.parent.with_name("link")
    link.symlink_to(below.parent)
    yield link / below.name


@contextlib.contextmanager
def exfat_in_capitals(where, below):
    """One folder under two names that differ by case, where case says nothing."""
    from mounts import exfat
    need("mount.exfat-fuse", "mkfs.exfat")
    with exfat(where) as disk:
        (disk / "level").mkdir()
        shutil.copytree(below, disk / "level", dirs_exist_ok=True, copy_function=shutil.copyfile)
        with bind_over(below, disk / "level"):
            yield disk / "LEVEL"


@contextlib.contextmanager
def bind_over(where, below):
    subprocess.run(["mount", "--bind", below, where], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", where], check=False, capture_output=True)


ALIASES = {"bindfs": bindfs, "mergerfs": mergerfs, "overlay": overlay, "fuse-overlayfs": fuse_overlay, "bind": bind,
           "link": link_on_the_way, "case": exfat_in_capitals}


def levels(site, name, path, count=POOL):
    site.paths[name] = path
    site.db.sql(f"INSERT INTO level VALUES ('{name}', '{path}', {count})")
    if str(path).startswith(str(site.folder)):
        return
    site.roots.append(str(path.parent))


def run(site, *words):
    result = subprocess.run([TIERD, *words, *[f"--root={r}" for r in site.roots], *site.common()], capture_output=True,
                            text=True, check=False, timeout=60)
    return result.returncode, result.stdout, result.stderr


def both_names(text, *names):
    assert all(n in text for n in names), text


def whole(site, level="bronze"):
    assert (site.paths[level] / NAME).read_bytes() == DATA and site.level(1) == level


def probes(site):
    return [str(p) for p in site.folder.rglob(".tierd-probe.*")]


@root_only
@pytest.mark.parametrize("kind", ALIASES)
@pytest.mark.parametrize("way", ["promote", "demote"])
def test_levels_that_show_the_same_files(site, kind, way):
    """A move between the two ends, both are named, one line for all jobs."""
    site.add(1, NAME, "bronze", DATA)
    for cid in range(2, 12):
        site.add(cid, f"{cid}", "bronze", DATA)
    with ALIASES[kind](site.folder / "pool", site.paths["bronze"]) as pool:
        levels(site, "pool", pool)
        if way == "demote":
            site.db.sql("UPDATE contents SET content_level = 'pool'")
        worker = site.both(workers=1)
        for cid in range(1, 12):
            site.post(cid, POOL if way == "promote" else 0)
        wait_until(lambda: all(site.job(c)["status"] == "dead" for c in range(1, 12)), what="the end of the jobs")
        both_names(site.job(1)["error"], "bronze", "pool")
        assert "show the same files" in site.job(1)["error"]
        whole(site, "bronze" if way == "promote" else "pool")
        assert len([line for line in worker.lines if "level=error" in line]) == 1, "\n".join(worker.lines)
        _, out, _ = run(site, "explain", "1")
        both_names(out, "the levels", "bronze", "pool")
        status, out, err = run(site, "check", "--repair")
        assert status == 1 and "0 mended" in out, out + err
        both_names(err, "the levels", "bronze", "pool")
        assert "second-copy" not in out and "different" not in out
        status, _, err = run(site, "init-level", "pool")
        assert status == 1 and not (site.paths["bronze"] / ".tierd-level").exists()
        both_names(err, "the levels", "bronze", "pool")
        whole(site, "bronze" if way == "promote" else "pool")
        assert probes(site) == []
        site.close()  # before its levels go


# ---- one level within another ----

@contextlib.contextmanager
def plain(where, outer):
    (outer / "sub").mkdir(exist_ok=True)
    yield outer / "sub"


@contextlib.contextmanager
def bind_of_a_part(where, outer):
    """Its path says nothing, nor does the way up from it."""
    (outer / "sub").mkdir(exist_ok=True)
    with bind(where, outer / "sub"):
        yield where


@contextlib.contextmanager
def link_to_the_root(where, outer):
    """A root that is a link into another level."""
    (outer / "deep" / "sub").mkdir(parents=True)
    link = outer.parent.with_name("link")
    link.symlink_to(outer / "deep")
    yield link / "sub"


@contextlib.contextmanager
def part_in_user_space(where, outer):
    """Numbers say nothing: the probe is found where the path ends alike."""
    (outer / "sub").mkdir(exist_ok=True)
    with bindfs(where.with_name("sub"), outer / "sub") as inner:
        yield inner


@contextlib.contextmanager
def pool_over_it(where, outer):
    """The pool shows the inner level below its own folder."""
    (outer / "sub").mkdir(exist_ok=True)
    other = where.with_name("branch")
    other.mkdir()
    with mergerfs(where, other, outer, options="category.create=epff"):
        yield where / "sub"


NESTED = {"path": plain, "bind": bind_of_a_part, "link": link_to_the_root, "bindfs": part_in_user_space,
          "mergerfs": pool_over_it}


@root_only
@pytest.mark.parametrize("kind", NESTED)
def test_a_level_within_another(site, kind):
    """A row that names the same file through the outer level keeps it; jobs wait, and go on when it is mended."""
    outer, silver = site.paths["bronze"], site.paths["silver"]
    with NESTED[kind](site.folder / "inner", outer) as inner:
        levels(site, "inner", inner)
        site.add(1, "x.mp4", "inner", DATA)
        file = next(outer.rglob("x.mp4"))
        site.add(2, str(file.relative_to(outer)), "bronze")      # the same file, through the outer level
        site.add(3, "out.mp4", "silver", DATA)
        api, worker = site.start_api(), site.start_worker(workers=1)
        if kind == "path":
            api.wait_line(r"level=error.*the levels inner and bronze overlap")
        for cid, count in ((1, 1000), (2, 1000), (3, POOL)):     # out of the inner one, the outer one, into the inner one
            site.post(cid, count)
        wait_until(lambda: all("overlap" in (site.redis.cli("HGET", f"tierd:job:{c}", "error") or "") for c in (1, 2, 3)),
                   what="three jobs that wait")
        assert file.read_bytes() == DATA and (silver / "out.mp4").read_bytes() == DATA
        assert [site.level(c) for c in (1, 2, 3)] == ["inner", "bronze", "silver"]
        _, out, _ = run(site, "explain", "3")
        both_names(out, "overlap", "inner", "bronze")
        assert worker.count("level=error") == 1 and worker.count("is put off") == 0, "\n".join(worker.lines)
        status, out, err = run(site, "check", "--repair")
        assert status == 1 and "1 pair of levels overlap" in out and " 0 mended" in out, out
        both_names(err, "overlap", "inner", "bronze")
        for level in ("inner", "bronze"):
            assert run(site, "init-level", level)[0] == 1
        assert not list(site.folder.rglob(".tierd*")) and not list(outer.rglob(".tierd*"))
        assert run(site, "init-level", "silver")[0] == 0
        site.db.sql("DELETE FROM contents WHERE cid = 1; DELETE FROM level WHERE level = 'inner'")
        del site.paths["inner"]
        site.redis.cli("DEL", "1")
        for cid in (2, 3):
            site.post(cid, 1000)
        wait_until(lambda: site.level(2) == "silver", timeout=60, what="the move after the table was mended")
        wait_until(lambda: site.redis.cli("EXISTS", "lock:2") == "0", what="its end")
        site.close()


@root_only
def test_an_overlap_that_appears(site):
    """Somebody mounts one level over another while tierd runs: nothing is lost by it, and it goes on when that is undone."""
    site.add(1, NAME, "bronze", DATA)
    site.add(2, "before", "bronze", DATA)
    worker = site.both(workers=1)
    site.post(2, 1000)
    site.wait_moved(2, "before", "silver")
    with bind_over(site.paths["gold"], site.paths["bronze"]):
        site.post(1, POOL)
        worker.wait_line("the levels .* show the same files: .* are one directory")
        wait_until(lambda: site.job(1)["status"] == "dead", what="the end of the job")
        assert (site.paths["bronze"] / NAME).read_bytes() == DATA and site.level(1) == "bronze"
    site.post(1, POOL)
    site.wait_moved(1, NAME, "gold")
