"""Files really moved, by the shipped binary, on real file systems."""
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import threading
import time

import pytest
from conftest import make_site, sha, wait_until
from harness.servers import TIERD, frozen
from harness.strace import Strace, available


@pytest.mark.both_nets
def test_one_file_system(site):
    site.sample()
    worker = site.both()
    inode = os.stat(site.paths["bronze"] / "d.mp4").st_ino
    site.post(4, 2500)
    site.wait_moved(4, "d.mp4", "gold")
    assert os.stat(site.paths["gold"] / "d.mp4").st_ino == inode, "one file system: a link, no copy"
    line = worker.wait_line(r"d\.mp4 moves bronze to gold")
    assert re.search(r"worker_id=\S+\.\d+\.[0-9a-f]{8} cid=4", line)
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="the job finished")
    assert site.redis.cli("EXISTS", "lock:4") == "0" and site.redis.cli("ZCARD", "tierd:due") == "0"
    assert site.job(4)["status"] == "done" and site.leftovers() == []


def access_list(*entries):
    """As the attribute holds it: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def test_open_for_writing_is_put_off(two_fs):
    """On another file system too, and whoever writes: as soon as it is closed, it moves as it then is."""
    two_fs.sample()
    source = two_fs.paths["bronze"] / "d.mp4"
    worker = two_fs.both()
    with open(source, "ab") as f:
        two_fs.post(4, 2500)
        worker.wait_line(r"d\.mp4 is put off.*open for writing")
        assert two_fs.places("d.mp4") == ["bronze"]
        f.write(b"the end")
    two_fs.wait_moved(4, "d.mp4", "gold")
    assert (two_fs.paths["gold"] / "d.mp4").read_bytes().endswith(b"the end")


@pytest.mark.both_nets
def test_other_file_system(two_fs):
    two_fs.sample()
    two_fs.both()
    source = two_fs.paths["bronze"] / "d.mp4"
    os.chmod(source, 0o640)
    os.setxattr(source, "user.note", b"kept")
    acl = access_list((1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 4, -1), (32, 0, -1))  # user 1234 may read
    os.setxattr(source, "system.posix_acl_access", acl)
    os.utime(source, ns=(10**18, 10**18 + 123456789))
    before = sha(source)
    two_fs.post(4, 2500)
    two_fs.wait_moved(4, "d.mp4", "gold")
    target = two_fs.paths["gold"] / "d.mp4"
    assert sha(target) == before
    assert os.stat(target).st_mode & 0o777 == 0o640
    assert os.stat(target).st_mtime_ns == 10**18 + 123456789
    assert os.getxattr(target, "user.note") == b"kept" and os.getxattr(target, "system.posix_acl_access") == acl
    assert two_fs.leftovers() == []


def test_zero_bytes_and_sub_directories(two_fs):
    two_fs.add(1, "2018/07/empty.mp4", "bronze", b"")
    two_fs.add(2, "2018/07/né 日本.mp4", "bronze", b"x" * 100000)
    two_fs.both()
    two_fs.post(1, 5000)
    two_fs.post(2, 5000)
    two_fs.wait_moved(1, "2018/07/empty.mp4", "gold")
    two_fs.wait_moved(2, "2018/07/né 日本.mp4", "gold")


@pytest.mark.parametrize("size", [3 * 2**20, 5 * 2**30])
def test_sparse_files_stay_sparse(two_fs, size):
    two_fs.add(1, "s.img", "bronze", b"")
    path = two_fs.paths["bronze"] / "s.img"
    with open(path, "wb") as f:
        for at in (0, size // 3, size - 2**20):
            f.seek(at)
            f.write(b"data" * 1024)
        f.truncate(size)
    blocks = os.stat(path).st_blocks
    two_fs.both(lease="20s")
    two_fs.post(1, 5000)
    two_fs.wait_moved(1, "s.img", "gold", timeout=60)
    moved = os.stat(two_fs.paths["gold"] / "s.img")
    assert moved.st_size == size and moved.st_blocks <= blocks + 64
    with open(two_fs.paths["gold"] / "s.img", "rb") as f:
        for at in (0, size // 3, size - 2**20):
            f.seek(at)
            assert f.read(4100) == b"data" * 1024 + b"\0" * 4


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_loop_mounted(servers, tmp_path, kind):
    """Bronze and gold on two real file systems of one kind."""
    if os.geteuid() != 0 or subprocess.run(["which", f"mkfs.{kind}"], capture_output=True, check=False).returncode:
        pytest.skip(f"needs root and mkfs.{kind}")
    image, mount = tmp_path / "fs.img", tmp_path / "fs"
    with open(image, "wb") as f:
        f.truncate(400 * 2**20)
    mount.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a loop device here")
    site = make_site(servers, tmp_path, mount)
    try:
        site.both()
        for cid in range(1, 21):
            site.add(cid, f"{cid}.bin", "bronze", os.urandom(cid * 30000))
        before = {cid: sha(site.paths["bronze"] / f"{cid}.bin") for cid in range(1, 21)}
        for cid in range(1, 21):
            site.post(cid, 5000)
        for cid in range(1, 21):
            site.wait_moved(cid, f"{cid}.bin", "gold")
            assert sha(site.paths["gold"] / f"{cid}.bin") == before[cid]
        assert site.leftovers() == []
    finally:
        site.close()
        subprocess.run(["umount", mount], check=True)


@pytest.mark.both_nets
def test_missing_source(site):
    site.add(2, "b.mp4", "bronze")
    worker = site.both()
    site.post(2, 1500)
    worker.wait_line(r'msg="b\.mp4 not exists"')
    wait_until(lambda: site.job(2)["status"] == "dead", what="dead")
    assert list(site.job(2))[-1] == "error" and site.level(2) == "bronze"


def test_occupied_destination(site):
    site.sample()
    (site.paths["gold"] / "e.mp4").write_bytes(b"a different file")
    worker = site.both()
    site.post(5, 5000)
    worker.wait_line(r'msg="e\.mp4 already exists in gold"')
    wait_until(lambda: site.job(5)["status"] == "conflict", what="conflict")
    assert list(site.job(5)) == ["cid", "count", "target", "db_level", "filename", "worker_id", "status", "error"]
    assert (site.paths["gold"] / "e.mp4").read_bytes() == b"a different file"
    assert (site.paths["silver"] / "e.mp4").exists() and site.level(5) == "silver"
    (site.paths["gold"] / "e.mp4").unlink()
    site.post(5, 5000)
    site.wait_moved(5, "e.mp4", "gold")


def test_identical_destination_is_adopted(two_fs):
    two_fs.sample()
    (two_fs.paths["gold"] / "d.mp4").write_bytes((two_fs.paths["bronze"] / "d.mp4").read_bytes())
    two_fs.both()
    two_fs.post(4, 5000)
    two_fs.wait_moved(4, "d.mp4", "gold")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "./a", "a/.tierd-x", "bad\nname", "a/" + "n" * 256])
def test_bad_names_are_refused(site, name):
    site.add(1, name, "bronze")
    site.both()
    site.post(1, 5000)
    wait_until(lambda: site.job(1)["status"] == "dead", what="dead")
    assert site.level(1) == "bronze"


@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory", "parent"])
def test_what_is_no_regular_file_is_refused(site, kind):
    bronze = site.paths["bronze"]
    name = "p/x" if kind == "parent" else "x"
    site.add(1, name, "bronze")
    if kind == "fifo":
        os.mkfifo(bronze / "x")
    elif kind == "symlink":
        (bronze / "x").symlink_to("/etc/hostname")
    elif kind == "directory":
        (bronze / "x").mkdir()
    else:
        (bronze / "p").symlink_to(bronze.parent)
        (bronze.parent / "x").write_bytes(b"outside the level")
    site.both()
    site.post(1, 5000)
    wait_until(lambda: site.job(1)["status"] == "dead", what="dead")
    assert site.places(name) == ["bronze"] or kind == "symlink"
    assert list(site.paths["gold"].iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("level,which", [("bronze", "source"), ("gold", "destination")])
def test_a_path_through_something_else_is_refused(site, level, which, kind):
    """A part of the path is a symbolic link or a file: that is said, not that the content does not exist."""
    site.add(1, "p/x", "bronze", b"in its place" if level == "gold" else None)
    part = site.paths[level] / "p"
    if kind == "file":
        part.write_bytes(b"a file")
    else:
        outside = site.folder / "outside"
        outside.mkdir()
        (outside / "x").write_bytes(b"outside the level")
        part.symlink_to(outside)
    worker = site.both()
    site.post(1, 5000)
    wait_until(lambda: site.job(1)["status"] == "dead", what="dead")
    assert site.job(1)["error"] == (f"open the {which}'s directory: "
                                    "a part of its path is a symbolic link or no directory")
    assert worker.count("not exists") == 0 and site.level(1) == "bronze"
    assert kind == "file" or (outside / "x").read_bytes() == b"outside the level"


def test_level_outside_the_roots(site):
    site.sample()
    site.db.sql("UPDATE level SET path = '/somewhere' WHERE level = 'gold'")
    site.both()
    site.post(4, 5000)
    wait_until(lambda: site.job(4)["status"] == "dead", what="dead")
    assert "roots" in site.job(4)["error"]


def mark(site, *levels):
    return subprocess.run([TIERD, "init-level", *levels, *[f"--root={r}" for r in site.roots], *site.common()],
                          capture_output=True, text=True, check=False)


@pytest.mark.parametrize("lost", ["gold", "bronze"])
def test_a_missing_mount_is_recognised(site, lost):
    """The directory is there, but not the one it was: nothing goes into it, and its files are not taken for gone."""
    site.sample()
    assert mark(site, "gold", "bronze", "silver").returncode == 0
    worker = site.both()
    path = site.paths[lost]
    path.rename(site.folder / "elsewhere")
    path.mkdir()
    site.post(4, 2500)
    worker.wait_line(rf"d\.mp4 is put off.*level {lost} lacks its marker.*mounted")
    assert list(path.iterdir()) == [] and site.level(4) == "bronze" and site.job(4)["status"] == "update"
    path.rmdir()
    (site.folder / "elsewhere").rename(path)
    site.wait_moved(4, "d.mp4", "gold")


def test_the_wrong_mount_is_recognised(site):
    site.sample()
    assert mark(site, "gold", "bronze").returncode == 0
    site.paths["gold"].rename(site.folder / "x")
    site.paths["bronze"].rename(site.paths["gold"])
    (site.folder / "x").rename(site.paths["bronze"])
    worker = site.both()
    site.post(4, 2500)
    worker.wait_line(r"d\.mp4 is put off.*level bronze has the marker of another level")
    assert not (site.paths["bronze"] / "d.mp4").exists() and (site.paths["gold"] / "d.mp4").exists()


def test_markers_are_learned_and_can_be_required(site):
    """Redis may be emptied: what a worker sees is remembered again. Without a marker only if that is allowed."""
    site.sample()
    assert mark(site, "bronze").returncode == 0
    again = mark(site, "bronze")
    assert again.returncode == 0 and "was marked already" in again.stdout
    site.redis.cli("FLUSHALL")
    site.start_api()
    worker = site.start_worker("--require-markers=yes")
    site.post(4, 2500)
    worker.wait_line(r"d\.mp4 is put off.*level gold has no marker")
    assert site.redis.cli("HGET", "tierd:levels", "bronze") in (site.paths["bronze"] / ".tierd-level").read_text()
    assert mark(site, "gold").returncode == 0
    site.wait_moved(4, "d.mp4", "gold")


def test_init_level_refuses(site):
    wrong = mark(site, "platinum")
    assert wrong.returncode == 64 and "platinum" in wrong.stderr
    site.db.sql("UPDATE level SET path = '/somewhere' WHERE level = 'gold'")
    outside = mark(site, "gold")
    assert outside.returncode == 78 and "roots" in outside.stderr
    assert subprocess.run([TIERD, "init-level", "gold", *site.common()], capture_output=True).returncode == 64


def test_hard_links_are_put_off(site):
    site.sample()
    os.link(site.paths["bronze"] / "d.mp4", site.folder / "other-name")
    worker = site.both()
    site.post(4, 5000)
    worker.wait_line(r"d\.mp4 is put off.*hard links")
    assert site.places("d.mp4") == ["bronze"]
    (site.folder / "other-name").unlink()
    site.wait_moved(4, "d.mp4", "gold")


@pytest.mark.both_nets
def test_jobs_of_other_programs_are_found(site):
    site.sample()
    site.both()
    site.redis.cli("SET", "3", json.dumps({"cid": "3", "count": "664", "target": "bronze", "db_level": "silver",
                                           "filename": "c.mp4", "worker_id": None, "status": "update"}))
    site.redis.cli("SET", "4", '{"status":"update","cid":4,"count":2500,"target":"gold","db_level":"bronze",'
                               '"filename":"d.mp4","worker_id":null}')
    site.wait_moved(3, "c.mp4", "bronze")
    site.wait_moved(4, "d.mp4", "gold")
    assert site.job(4)["status"] == "done"


def test_jobs_of_other_programs_are_found_while_there_is_always_something_to_do(two_fs):
    """A busy worker searches too: what was posted is no reason to never hear of the others."""
    posted, others = range(1, 601), range(1001, 1041)
    values = ", ".join(f"({i}, 'bronze', '{i}.bin')" for i in (*posted, *others))
    two_fs.db.sql(f"INSERT INTO contents (cid, content_level, filename) VALUES {values}")
    for i in (*posted, *others):
        (two_fs.paths["bronze"] / f"{i}.bin").write_bytes(b"content")
    two_fs.start_api()
    for i in posted:
        assert two_fs.post(i, 5000).status == 200
    for i in others:
        two_fs.redis.cli("SET", str(i), json.dumps({"cid": str(i), "count": "5000", "target": "gold", "db_level": "bronze",
                                                    "filename": f"{i}.bin", "worker_id": None, "status": "update"}))
    worker = two_fs.start_worker(workers=1)
    worker.wait_line("found a job that another program wrote")
    assert int(two_fs.redis.cli("ZCARD", "tierd:due")) > 100
    for i in others:
        two_fs.wait_moved(i, f"{i}.bin", "gold")


def test_broken_json_is_left_alone_and_logged_once(site):
    site.sample()
    texts = {"4": "{not json", "5": '{"cid": "6", "count": "1", "target": "gold", "db_level": "silver", '
                                    '"filename": "e.mp4", "worker_id": null, "status": "update"}'}
    for cid, text in texts.items():
        site.redis.cli("SET", cid, text)
    worker = site.both()
    for cid in texts:
        worker.wait_line(rf"left alone.*cid={cid} ")
    turns = int(site.redis.cli("INFO", "commandstats").count("scan"))
    assert turns
    site.redis.cli("DEL", "tierd:scan")
    wait_until(lambda: site.redis.cli("EXISTS", "tierd:scan") == "1", what="another scan")
    site.redis.cli("DEL", "tierd:scan")
    wait_until(lambda: site.redis.cli("EXISTS", "tierd:scan") == "1", what="another scan")
    assert [worker.count(rf"left alone.*cid={cid} ") for cid in texts] == [1, 1]
    assert {cid: site.redis.cli("GET", cid) for cid in texts} == texts
    assert site.places("d.mp4") == ["bronze"]


def fill(redis, cids, text):
    """Many keys at once."""
    for at in range(0, len(cids), 2000):
        redis.cli("MSET", *[word for cid in cids[at:at + 2000] for word in (str(cid), text)])


def test_one_worker_scans_at_a_time(site):
    """Also when a scan takes longer than the interval: Redis has one pace of it, however many workers there are."""
    fill(site.redis, range(100001, 140001), '{"status": "done"}')
    site.both(workers=4)
    scans = lambda: int(re.search(r"cmdstat_scan:calls=(\d+)", site.redis.cli("INFO", "commandstats") + "cmdstat_scan:calls=0")[1])
    wait_until(lambda: scans() > 0, what="a scan")
    before, began = scans(), time.monotonic()
    wait_until(lambda: time.monotonic() > began + 3, what="a while of scans")
    assert scans() - before < 3 / 0.040 * 1.1


def test_a_done_that_nobody_made(site):
    """The API believes what another program says; a worker of ours that looks at the old place puts it right."""
    site.sample()
    site.start_api()
    site.redis.cli("SET", "7", json.dumps({"cid": "7", "count": "1964", "target": "silver", "db_level": "bronze",
                                           "filename": "g.mp4", "worker_id": None, "status": "done"}))
    assert site.update(7).status == 200 and site.level(7) == "silver"
    worker = site.start_worker()
    worker.wait_line("another program said that it moved the file, and it stands where it was")
    wait_until(lambda: site.redis.cli("KEYS", "tierd:job:*") == "", what="it is finished")
    assert site.level(7) == "silver" and site.places("g.mp4") == ["silver"] and worker.count("g.mp4 moves bronze to silver") == 1


def test_1000_jobs_16_workers_each_once(two_fs):
    count = 1000
    values = ", ".join(f"({i}, 'bronze', '{i % 7}/{i}.bin')" for i in range(1, count + 1))
    two_fs.db.sql(f"INSERT INTO contents (cid, content_level, filename) VALUES {values}")
    for i in range(1, count + 1):
        path = two_fs.paths["bronze"] / f"{i % 7}/{i}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"content {i} ".encode() * (i % 50))
    worker = two_fs.both(workers=16, lease="30s")
    for i in range(1, count + 1):
        assert two_fs.post(i, 2000 + i).status == 200
    wait_until(lambda: two_fs.db.sql("SELECT COUNT(*) FROM contents WHERE content_level = 'gold'") == [[str(count)]]
               and two_fs.redis.cli("ZCARD", "tierd:due") == "0", 120, "all moved")
    moves = [m.group(1) for m in (re.search(r" moves .* cid=(\d+)", line) for line in worker.lines) if m]
    assert sorted(map(int, moves)) == list(range(1, count + 1)), "each moved exactly once"
    assert len({re.search(r"worker_id=(\S+)", line).group(1) for line in worker.lines if " moves " in line}) > 4
    for i in range(1, count + 1):
        assert (two_fs.paths["gold"] / f"{i % 7}/{i}.bin").read_bytes() == f"content {i} ".encode() * (i % 50)
    assert not [p for p in two_fs.paths["bronze"].rglob("*") if p.is_file()] and two_fs.leftovers() == []


def test_a_reader_that_follows_the_database_never_misses(two_fs):
    """Contents cycle between levels; a reader asks for the level, then opens the file there."""
    two_fs.sample()
    two_fs.both(workers=3)
    stop, misses, reads = threading.Event(), [], [0]

    def read():
        client = subprocess.Popen([*two_fs.db.command(), "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        def level():
            client.stdin.write("SELECT content_level FROM contents WHERE cid = 4;\n")
            client.stdin.flush()
            return client.stdout.readline().strip()
        while not stop.is_set():
            for _ in range(5):  # a miss counts only when the database says the same again
                at = level()
                try:
                    assert (two_fs.paths[at] / "d.mp4").read_bytes() == b"content 4" * 100
                    reads[0] += 1
                    break
                except FileNotFoundError:
                    if level() == at:
                        misses.append(at)
                        break
        client.stdin.close()
        client.wait()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(40):
            level = ["gold", "silver", "bronze"][i % 3]
            two_fs.post(4, {"gold": 2000, "silver": 1000, "bronze": 0}[level])
            two_fs.wait_moved(4, "d.mp4", level)
    finally:
        stop.set()
        reader.join()
    assert misses == [] and reads[0] > 100


@pytest.mark.both_nets
def test_a_killed_child_does_not_lose_the_job(two_fs):
    two_fs.add(1, "big.bin", "bronze", os.urandom(64 * 2**20))
    before = sha(two_fs.paths["bronze"] / "big.bin")
    worker = two_fs.both(workers=1, lease="1s")
    two_fs.post(1, 5000)
    line = worker.wait_line(r"big\.bin moves")
    os.kill(int(re.search(r"worker_id=\S+\.(\d+)\.", line).group(1)), signal.SIGKILL)
    two_fs.wait_moved(1, "big.bin", "gold")
    assert sha(two_fs.paths["gold"] / "big.bin") == before
    assert worker.count("a child died") == 1


def test_reaction_and_idle_cost(site):
    """A post is picked up at once, and waiting costs nothing."""
    site.sample()
    worker = site.both()
    site.post(4, 2500)
    site.wait_moved(4, "d.mp4", "gold")
    best = 1.0
    for i in range(10):
        started = time.monotonic()
        line_count = len(worker.lines)
        site.post(4, 2500 if i % 2 else 5)
        worker.wait_line("d.mp4 moves", start=line_count)
        best = min(best, time.monotonic() - started)
        site.wait_moved(4, "d.mp4", "gold" if i % 2 else "bronze")
    assert best < 0.05

    def ticks():
        pids = [worker.process.pid, *worker.children(), site.api.process.pid, *site.api.children()]
        fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
        return sum(int(f[11]) + int(f[12]) for f in fields)
    before = ticks()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        threading.Event().wait(0.5)
    assert ticks() - before <= 4, "more than 2 % of one core while idle"


# Where the child is held: (after which call, what stands then, where the row says).
HELD = {"while it copies": ("fchmod:signal=STOP:when=1", ["bronze"], "bronze"),
        "before it publishes": ("fsync:signal=STOP:when=1", ["bronze"], "bronze"),
        "when the copy stands": ("linkat:signal=STOP:when=1", ["bronze", "gold"], "bronze"),
        "while the old copy goes": ("renameat2:signal=STOP:when=1", ["gold"], "gold")}


@pytest.mark.both_nets
@pytest.mark.skipif(available() is not None, reason=str(available()))
@pytest.mark.parametrize("part,sig", [("redis", signal.SIGTERM), ("redis", signal.SIGKILL),
                                      ("db", signal.SIGTERM), ("db", signal.SIGKILL)])
def test_a_server_restarts_in_the_middle_of_a_move(own_two_fs, part, sig):
    """The child is held at a known call; the server comes back without its connections."""
    site = own_two_fs
    server = getattr(site, part)
    worker = site.both(workers=1, lease="1s")
    child, = worker.children()
    for cid, (held, (expression, places, row)) in enumerate(HELD.items(), 1):
        site.redis.cli("CONFIG", "SET", "appendfsync", "always")  # what is answered is kept, also by a killed one
        site.add(cid, f"{cid}.bin", "bronze", os.urandom(3 * 2**20))
        before = sha(site.paths["bronze"] / f"{cid}.bin")
        wait_until(lambda: site.request("GET", "/health").status == 200, what="health")
        with Strace(child, "trace=fchmod,linkat,fsync,renameat2", f"inject={expression}") as trace:
            assert site.post(cid, 5000).status == 200
            try:
                wait_until(trace.held, what=f"the child is held {held}")
                assert (site.level(cid), site.places(f"{cid}.bin")) == (row, places), held
                server.stop(sig)
                server.start()
            finally:
                os.kill(child, signal.SIGCONT)
            site.wait_moved(cid, f"{cid}.bin", "gold", timeout=60)
            wait_until(lambda c=cid: site.redis.cli("EXISTS", f"tierd:job:{c}", f"lock:{c}") == "0",
                       what="the job finished")
        assert sha(site.paths["gold"] / f"{cid}.bin") == before
        assert site.job(cid)["status"] == "done" and site.leftovers() == [], held
    assert worker.count("a child died") == 0 and worker.children() == [child]


@pytest.mark.parametrize("count,final", [(1500, "silver"), (0, "bronze")])
def test_a_new_target_while_it_is_copied(two_fs, count, final):
    """The last post wins, also when it says: stay. The copy that nobody wants any more goes."""
    two_fs.add(1, "big.bin", "bronze", os.urandom(200 * 2**20))
    before = sha(two_fs.paths["bronze"] / "big.bin")
    worker = two_fs.both(workers=2, lease="1s")
    two_fs.post(1, 5000)
    line = worker.wait_line(r"big\.bin moves bronze to gold")
    pid = int(re.search(r"worker_id=\S+\.(\d+)\.", line).group(1))
    with frozen(pid):
        answer = json.loads(two_fs.post(1, count).body)
        assert answer["target"] == final
        wait_until(lambda: two_fs.redis.cli("EXISTS", "lock:1") == "0", what="the lease ends")
    two_fs.wait_moved(1, "big.bin", final)
    assert sha(two_fs.paths[final] / "big.bin") == before
    wait_until(lambda: two_fs.redis.cli("EXISTS", "tierd:job:1") == "0", what="the job finished")
    assert two_fs.job(1)["status"] == "done" and two_fs.leftovers() == []


@pytest.mark.both_nets
def test_password_files(site, tmp_path):
    site.sample()
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    site.redis.cli("CONFIG", "SET", "requirepass", "s3cret")
    try:
        site.start_api(f"--redis-password-file={secret}")
        assert site.post(7, 1964).status == 200
        wrong = tmp_path / "wrong"
        wrong.write_text("guess\n")
        site.start_api(f"--redis-password-file={wrong}")
        assert json.loads(site.request("GET", "/health").body)["redis"].startswith("refuses us: WRONGPASS ")
    finally:
        subprocess.run([*site.redis.command(), "-a", "s3cret", "CONFIG", "SET", "requirepass", ""],
                       capture_output=True, check=True)
