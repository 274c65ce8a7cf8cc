"""`tierd check`: the catalogue against the disks, dry by default."""
import fcntl
import json
import os
import re
import signal
import subprocess

import pytest
from conftest import sha, wait_until
from harness import strace
from harness.servers import TIERD


def check(site, *args):
    result = subprocess.run([TIERD, "check", *args, *[f"--root={r}" for r in site.roots], *site.common()],
                            capture_output=True, text=True, check=False, timeout=60)
    return result.returncode, result.stdout, result.stderr


def findings(out):
    return [tuple(line.split()[:2]) for line in out.splitlines()[:-1]]


def test_all_in_order(site):
    site.sample()
    status, out, _ = check(site)
    assert status == 0 and out == "8 contents, 8 in order, 8 files, 0 findings; nothing was changed\n"


def test_dry_run_changes_nothing(site):
    site.sample()
    bronze, gold = site.paths["bronze"], site.paths["gold"]
    (gold / "d.mp4").write_bytes((bronze / "d.mp4").read_bytes())
    (bronze / "g.mp4").rename(gold / "g.mp4")
    (bronze / "h.mp4").unlink()
    (gold / "b.mp4").write_bytes(b"different")
    (gold / "sub").mkdir()
    (gold / "sub" / "nobody's.mp4").write_bytes(b"x")
    before = {str(p): sha(p) for p in site.folder.rglob("*") if p.is_file()}
    status, out, _ = check(site)
    assert status == 1
    assert sorted(findings(out)) == [("different", "2"), ("elsewhere", "7"), ("missing", "8"), ("second-copy", "4"),
                                     ("unknown", "-")]
    assert "5 findings; nothing was changed" in out
    assert {str(p): sha(p) for p in site.folder.rglob("*") if p.is_file()} == before
    assert site.level(7) == "bronze" and site.redis.cli("DBSIZE") == "0"


@pytest.mark.skipif(strace.available() is not None, reason=str(strace.available()))
def test_a_folder_that_cannot_be_read_to_its_end(site):
    """What was not listed was not looked at."""
    site.sample()
    words = ["strace", "-o", "/dev/null", "-e", "inject=getdents64:error=EIO", TIERD, "check",
             *[f"--root={r}" for r in site.roots], *site.common()]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1 and {f[0] for f in findings(result.stdout)} == {"unreadable"}
    assert result.stdout.count("I/O error") == len(site.paths)


def test_a_path_through_a_link_is_not_missing(site):
    """Readers may reach it through the link: the row is not corrected to a copy elsewhere."""
    site.add(1, "p/x", "silver", b"x")
    site.db.sql("UPDATE contents SET content_level = 'bronze' WHERE cid = 1")
    (site.paths["bronze"] / "p").symlink_to(site.folder)
    site.add(2, "q/y", "bronze", b"y")
    (site.paths["gold"] / "q").symlink_to(site.folder)
    status, out, _ = check(site, "--repair")
    assert status == 1 and site.level(1) == "bronze"
    assert [f for f in findings(out) if f[0] != "unknown"] == [("unreadable", "1")]
    assert "a part of its path is a symbolic link" in out


def test_what_cannot_be_looked_at_is_not_called_different(site):
    """A file that somebody else has a lease on, as a file server does, may be a copy as well: nothing follows from it."""
    site.add(1, "a", "silver", b"x")
    site.add(2, "b", "silver", b"y")
    site.db.sql("UPDATE contents SET content_level = 'bronze' WHERE cid = 2")  # two places may hold it
    gold = site.paths["gold"]
    for name in ("a", "b"):
        (gold / name).write_bytes((site.paths["silver"] / name).read_bytes())
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)  # they are told of by this
    try:
        with open(gold / "a", "rb+") as a, open(gold / "b", "rb+") as b:
            for f in (a, b):
                fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            status, out, _ = check(site, "--repair")
    finally:
        signal.signal(signal.SIGIO, handler)
    assert status == 1 and site.level(2) == "bronze"
    assert [f for f in findings(out) if f[0] != "unknown"] == [("unreadable", "1"), ("elsewhere", "2")]
    assert "in gold: the file is locked or open for writing" in out


def test_a_row_is_corrected_to_what_is_whole_alone(site):
    """Copies that are the same at several levels, one that somebody writes to, one that is another content's, too."""
    bronze, silver, gold = (site.paths[n] for n in ("bronze", "silver", "gold"))
    for cid, name in ((1, "a"), (2, "b"), (3, "c")):
        site.add(cid, name, "bronze")
        (gold / name).write_bytes(name.encode() * 1000)
    (silver / "a").write_bytes(b"a" * 1000)
    site.both()
    site.db.sql("ALTER TABLE contents DROP KEY filename; INSERT INTO contents VALUES (4, 'gold', 'c', NOW(6), NOW(6))")
    try:
        with open(gold / "b", "rb+"):
            status, out, _ = check(site, "--repair")
        assert status == 1 and [site.level(cid) for cid in (1, 2, 3)] == ["silver", "bronze", "bronze"], out
        assert "at 2 other levels, in silver first; the row is corrected" in out
        assert "a copy stands in gold besides the one in silver; a worker looks at it" in out
        assert "it should be in bronze and stands in gold, where it is left: the file is locked or open for writing" in out
        assert "it should be in bronze and stands in gold, where it is left: another content has that name" in out
        site.wait_moved(1, "a", "silver")
    finally:
        site.db.sql("DELETE FROM contents WHERE cid = 4; ALTER TABLE contents ADD UNIQUE KEY filename (filename)")
    status, out, _ = check(site, "--repair")
    assert status == 0 and site.level(2) == site.level(3) == "gold", out
    assert list(bronze.glob("?")) == []


def test_repair(site):
    """What Redis lost in the middle of moves is mended from the catalogue and the disks alone."""
    site.sample()
    bronze, silver, gold = (site.paths[n] for n in ("bronze", "silver", "gold"))
    (gold / "d.mp4").write_bytes((bronze / "d.mp4").read_bytes())      # published, never committed
    (silver / "d.mp4").write_bytes((bronze / "d.mp4").read_bytes())
    (bronze / "g.mp4").rename(gold / "g.mp4")                          # committed, the commit got lost
    (bronze / ".tierd-old.1").write_bytes((gold / "a.mp4").read_bytes())  # renamed, not yet removed
    (silver / ".tierd-tmp.5").write_bytes(b"half")
    (gold / "b.mp4").write_bytes(b"different")
    (gold / "nobody's.mp4").write_bytes(b"x")
    site.both()
    status, out, _ = check(site, "--repair")
    assert status == 1 and "5 mended" in out and "7 findings" in out, out
    site.wait_moved(4, "d.mp4", "bronze")
    assert site.level(7) == "gold"
    wait_until(lambda: site.leftovers() == [], what="no private name is left")
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="the jobs finished")
    assert (gold / "b.mp4").read_bytes() == b"different" and (gold / "nobody's.mp4").exists()
    status, out, _ = check(site)
    assert sorted(findings(out)) == [("different", "2"), ("unknown", "-")]


def test_what_a_retirement_left_beside_the_content(site):
    """Redis lost everything while contents cycled back: nobody else looks at a private name there."""
    site.sample()
    bronze = site.paths["bronze"]
    (bronze / "b.mp4").rename(bronze / ".tierd-old.2")                     # the only copy
    (bronze / ".tierd-old.4").write_bytes((bronze / "d.mp4").read_bytes())  # the same once more
    os.link(bronze / "g.mp4", bronze / ".tierd-old.7")
    (bronze / ".tierd-old.8").write_bytes(b"something else")
    os.utime(bronze / ".tierd-old.8", (1_900_000_000, 1_900_000_000))
    (bronze / ".tierd-old.1").write_bytes(b"of gold, not handed over yet")
    (bronze / "sub").mkdir()
    (bronze / "sub" / ".tierd-old.4").write_bytes(b"nobody's")
    before = {str(p): sha(p) for p in site.folder.rglob("*") if p.is_file()}
    status, out, _ = check(site)
    assert status == 1 and {str(p): sha(p) for p in site.folder.rglob("*") if p.is_file()} == before
    assert sorted(findings(out)) == [("leftover", "1"), ("leftover", "2"), ("leftover", "4"), ("leftover", "4"),
                                     ("leftover", "7"), ("leftover", "8"), ("missing", "2")]
    status, out, _ = check(site, "--repair")
    assert status == 1 and "7 findings, 4 mended" in out
    for cid, said in ((2, "missing beside it; it is put back"), (4, "the same as the content beside it; it is removed"),
                      (7, "it is removed"), (8, "compare them, and keep the right one"), (1, "a worker looks at it")):
        assert re.search(rf'^leftover +{cid} .*"\.tierd-old\.{cid}": .*{said}', out, re.M), (cid, out)
    assert "the newer one is the private one (2030-03-17 17:46:40 UTC, 14 bytes; the other: " in out
    assert re.search(r'"sub/\.tierd-old\.4": .*no row names a content there', out)
    assert sorted(p.name for p in bronze.rglob(".tierd-old.*")) == [".tierd-old.1", ".tierd-old.4", ".tierd-old.8"]
    for cid, name in ((2, "b.mp4"), (4, "d.mp4"), (7, "g.mp4"), (8, "h.mp4")):
        assert (bronze / name).read_bytes() == f"content {cid}".encode() * 100 and (bronze / name).stat().st_nlink == 1
    assert site.redis.cli("KEYS", "lock:*") == ""


def test_what_is_in_use_is_not_mended(site):
    site.sample()
    old = site.paths["bronze"] / ".tierd-old.4"
    old.write_bytes((site.paths["bronze"] / "d.mp4").read_bytes())
    with open(old, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, out, _ = check(site, "--repair")
        assert status == 1 and "is in use" in out and old.exists()
    site.redis.cli("SET", "lock:4", "somebody", "PX", "60000")
    assert "under way" in check(site, "--repair")[1] and old.exists()


def test_jobs_under_way_are_left_alone(site):
    site.sample()
    site.start_api()
    site.post(4, 2500)
    (site.paths["gold"] / "d.mp4").write_bytes((site.paths["bronze"] / "d.mp4").read_bytes())
    status, out, _ = check(site, "--repair")
    assert status == 0 and "1 under way and left alone" in out
    assert site.places("d.mp4") == ["bronze", "gold"]


def test_a_level_that_is_not_there_is_not_judged(site):
    """An unmounted disk must not make contents look lost, nor rows be corrected."""
    site.sample()
    subprocess.run([TIERD, "init-level", "gold", f"--root={site.folder}", *site.common()], check=True,
                   capture_output=True)
    site.paths["gold"].rename(site.folder / "away")
    site.paths["gold"].mkdir()
    (site.paths["silver"] / "a.mp4").write_bytes(b"content 1" * 100)
    status, out, err = check(site, "--repair")
    assert status == 1 and "level gold" in err and "marker" in err and "1 level not looked at" in out
    assert site.level(1) == "gold" and ("missing", "1") not in findings(out)


@pytest.mark.parametrize("name,kind", [("../x", "bad-name"), ("fifo", "unreadable")])
def test_what_cannot_be_a_content(site, name, kind):
    site.add(9, name, "bronze")
    if kind == "unreadable":
        os.mkfifo(site.paths["bronze"] / name)
    status, out, _ = check(site)
    assert status == 1 and findings(out)[0] == (kind, "9")


def test_control_characters_are_escaped(site):
    (site.paths["gold"] / "a\x1b[31m\nb").write_bytes(b"x")
    _, out, _ = check(site)
    assert re.search(r'unknown +- +"a\\u001b\[31m\\nb"', out)


def test_as_json(site):
    site.sample()
    (site.paths["gold"] / "nobody's").write_bytes(b"x")
    (site.paths["bronze"] / "h.mp4").unlink()
    status, out, _ = check(site, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and [(o["finding"], o["cid"], o["filename"]) for o in lines[:-1]] == [
        ("missing", "8", "h.mp4"), ("unknown", None, "nobody's")]
    assert [(o["level"], o["found_in"]) for o in lines[:-1]] == [("bronze", None), (None, "gold")]
    assert (lines[-1]["contents"], lines[-1]["in_order"], lines[-1]["repair"]) == (8, 7, False)
    command = [TIERD, "init-level", "gold", "--json", f"--root={site.folder}", *site.common()]
    marked = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert marked["level"] == "gold" and marked["new"] and marked["id"] in (site.paths["gold"] / ".tierd-level").read_text()


def test_under_moves(site):
    """A row that was read, then moved, is no finding: what is found is looked at again, with the row as it is then."""
    for cid in range(1, 301):
        site.add(cid, f"{cid}", "bronze", b"x" * 100)
    site.both(workers=2)
    found = []
    for turn in range(6):
        for cid in range(1, 301):
            site.post(cid, 5000 if turn % 2 == 0 else 0)
        status, out, err = check(site)
        assert status in (0, 1), err
        found += findings(out)
    assert found == [], (len(found), found[:5])


def test_what_is_found_is_looked_at_under_the_claim(site):
    """A content that somebody claims between the two looks is left alone."""
    site.sample()
    (site.paths["bronze"] / "g.mp4").rename(site.paths["gold"] / "g.mp4")
    site.redis.cli("SET", "lock:7", "somebody", "PX", "60000")
    status, out, _ = check(site, "--repair")
    assert status == 0 and "0 findings" in out and "1 under way and left alone" in out and site.level(7) == "bronze"
    site.redis.cli("DEL", "lock:7")
    status, out, _ = check(site, "--repair")
    assert status == 0 and findings(out) == [("elsewhere", "7")] and site.level(7) == "gold"
    assert site.redis.cli("KEYS", "lock:*") == ""


def test_a_row_with_a_level_that_does_not_exist(view_site):
    site = view_site
    site.add(1, "x", "silver", b"x")
    site.add(2, "y", "silver")
    site.db.sql("SET foreign_key_checks = 0; UPDATE films SET content_level = 'lead'")
    status, out, _ = check(site)
    assert status == 1 and findings(out) == [("no-level", "1"), ("no-level", "2")]
    assert "it should be in lead, which is no level of the catalogue, and stands in silver" in out
    assert "and stands at no level" in out and "0 in order" in out
    status, out, _ = check(site, "--repair")
    assert status == 1 and "1 mended" in out and site.level(1) == "silver" and site.level(2) == "lead"


@pytest.mark.parametrize("later", ["bronze", "gold", None])
def test_which_of_two_different_files_is_newer(site, later):
    """Which is the right one a person must say; none is ever removed."""
    site.add(1, "x", "bronze", b"short")
    (site.paths["gold"] / "x").write_bytes(b"longer")
    for level in ("bronze", "gold"):
        at = 1_800_000_000 + (level == later)
        os.utime(site.paths[level] / "x", (at, at))
    status, out, _ = check(site, "--repair")
    assert status == 1 and findings(out) == [("different", "1")] and " 0 mended" in out
    assert (f"the newer one is in {later}" if later else "both are of the same time") in out
    assert "gold: 2027-01-15 08:00:0" in out and "UTC, 6 bytes; bronze: 2027-01-15 08:00:0" in out
    assert (site.paths["gold"] / "x").read_bytes() == b"longer" and (site.paths["bronze"] / "x").read_bytes() == b"short"
    f = json.loads(check(site, "--json")[1].splitlines()[0])
    assert (f["finding"], f["level"], f["found_in"], f["newer"]) == ("different", "bronze", "gold", later)


def test_a_name_that_is_no_utf8(site):
    """No row can name it, and the database would refuse to look: it is unknown, and the check goes on."""
    site.sample()
    for name in (b"caf\xe9.mp4", b"zz\xff\xfe", b"\xc0\xaf"):
        (site.paths["gold"] / os.fsdecode(name)).write_bytes(b"x")
    (site.paths["bronze"] / os.fsdecode(b"dir\xe9")).mkdir()
    (site.paths["bronze"] / os.fsdecode(b"dir\xe9") / "in.mp4").write_bytes(b"x")
    (site.paths["silver"] / "nobody's").write_bytes(b"x")
    status, out, err = check(site)
    assert status == 1 and err.count("marker") == 3 and sorted(findings(out)) == [("unknown", "-")] * 5
    assert '"caf\\u00e9.mp4"' in out and "8 in order, 13 files, 5 findings" in out
    status, out, _ = check(site, "--json")
    assert sorted(json.loads(line)["found_in"] for line in out.splitlines()[:-1]) == ["bronze", "gold", "gold", "gold",
                                                                                     "silver"]


def test_markers_are_no_files(site):
    site.sample()
    subprocess.run([TIERD, "init-level", "gold", "silver", f"--root={site.folder}", *site.common()], check=True,
                   capture_output=True)
    assert "8 contents, 8 in order, 8 files, 0 findings" in check(site)[1]


def test_probes_that_were_left(site):
    """A process was killed while it looked whether levels overlap."""
    gold = site.paths["gold"]
    (gold / ".tierd-probe.0123456789abcdef").write_bytes(b"")
    (gold / ".tierd-probe.holds-something").write_bytes(b"x")
    assert "0 findings" in check(site)[1]  # just made: somebody may be about to look
    for probe in gold.glob(".tierd-probe.*"):
        os.utime(probe, (1_700_000_000, 1_700_000_000))
    status, out, _ = check(site)
    assert status == 1 and findings(out) == [("leftover", "-")] * 2
    status, out, _ = check(site, "--repair")
    assert status == 1 and " 1 mended" in out and "left it in gold; it is removed" in out and "it holds something" in out
    assert [p.name for p in gold.iterdir()] == [".tierd-probe.holds-something"]


def test_check_without_servers(site):
    result = subprocess.run([TIERD, "check", "--root=/tmp", "--redis=unix:///nowhere?db=1"], capture_output=True,
                            text=True, check=False)
    assert result.returncode == 69 and "redis is away" in result.stderr


def test_a_row_of_a_view_is_corrected(view_site):
    view_site.add(1, "x", "silver", b"x")
    view_site.db.sql("UPDATE contents SET content_level = 'bronze'")
    status, out, _ = check(view_site, "--repair")
    assert findings(out) == [("elsewhere", "1")] and view_site.level(1) == "silver"
