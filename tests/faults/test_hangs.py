"""What hangs: a level whose file system does not answer, a child that does not turn.

What hangs here is a bindfs that is stopped; that of an NFS mount with `hard`, or of a dying disk, is like it. `stuck` is
one that cannot even be killed: a file system that has taken the call and waits itself."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import wait_until
from harness.servers import TIERD, die_with_parent, freeze, frozen, thaw
from mounts import fuse

HUNG_S = 5   # TURNS_HUNG_MS
HANG_S = 30  # HANG_MS of the supervisor


def need_fuse():
    if os.geteuid() != 0 or not pathlib.Path("/dev/fuse").exists() or not shutil.which("bindfs"):
        pytest.skip("needs root, /dev/fuse and bindfs")


def server_of(where):
    """The process that serves a mount of ours."""
    for pid in subprocess.run(["pgrep", "-P", str(os.getpid()), "bindfs"], capture_output=True, text=True,
                              check=True).stdout.split():
        if pathlib.Path("/proc", pid, "cmdline").read_bytes().rstrip(b"\0").endswith(os.fsencode(where)):
            return int(pid)
    pytest.fail(f"nobody serves {where}")


class Hanging:
    """Gold lies on a file system that hangs when it is told to."""

    def __init__(self, where, data, servers, stack, killable):
        self.where, self.data, self.servers, self.stack, self.killable = where, data, servers, stack, killable

    def hang(self):
        freeze(*self.servers)

    def answer(self):
        thaw(*self.servers)

    def mount_anew(self):
        """In the place of what hangs, which stays for those who wait for it."""
        subprocess.run(["umount", "-l", self.where], check=True)
        self.stack.enter_context(fuse(self.where, "bindfs", "-f", self.data, self.where))


@contextlib.contextmanager
def hanging_gold(site, kind):
    need_fuse()
    gold = site.paths["gold"]
    data = gold.with_name("gold-data")
    data.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "stuck":  # the outer one takes the call, and waits for the inner one
            inner = gold.with_name("gold-inner")
            stack.enter_context(fuse(inner, "bindfs", "-f", data, inner))
            gold.rmdir()
            stack.enter_context(fuse(gold, "bindfs", "-f", inner, gold))
            hanging = Hanging(gold, data, [server_of(inner)], stack, False)
        else:
            gold.rmdir()
            stack.enter_context(fuse(gold, "bindfs", "-f", data, gold))
            hanging = Hanging(gold, data, [server_of(gold)], stack, True)
        stack.callback(hanging.answer)
        yield hanging


@pytest.fixture(params=["killable", "stuck"])
def gold(request, site):
    with hanging_gold(site, request.param) as hanging:
        yield hanging
        hanging.answer()
        site.close()


def status(site):
    return json.loads(site.request("GET", "/status").body)


def level_of(site, name):
    return next(level for level in status(site)["levels"] if level["level"] == name)


def explain(site, cid):
    return json.loads(site.request("GET", f"/jobs/{cid}").body)["now"]


def add(site, cid, level, size=1000):
    site.add(cid, f"{cid}.mp4", level, os.urandom(size))


def wait_moved(site, cid, level, timeout=30):
    """As Site.wait_moved, which looks into every level, and would hang in one that does."""
    path = site.paths[level] / f"{cid}.mp4"
    wait_until(lambda: site.level(cid) == level and path.exists(), timeout, f"{cid} at {level}")


def ready(site):
    """The looker has seen all levels."""
    wait_until(lambda: site.redis.cli("HLEN", "tierd:use") == "3", what="a look at the levels")


def test_a_level_that_hangs_holds_up_only_what_touches_it(site, gold):
    for cid in range(1, 21):
        add(site, cid, "bronze")
    worker = site.both(workers=2)
    ready(site)
    gold.hang()
    for cid in range(1, 5):
        assert site.post(cid, 5000).status == 200  # to gold
    for cid in range(5, 9):
        assert site.post(cid, 1500).status == 200  # to silver
    for cid in range(5, 9):
        wait_moved(site, cid, "silver", timeout=6 * HUNG_S)
    # known by now: what is healthy moves at once
    wait_until(lambda: level_of(site, "gold")["trouble"], 4 * HUNG_S, "the status names the level")
    for cid in range(9, 13):
        assert site.post(cid, 1500).status == 200
    for cid in range(9, 13):
        wait_moved(site, cid, "silver", timeout=2 * HUNG_S)

    trouble, = level_of(site, "gold")["trouble"]
    assert trouble.startswith("the file system of the level gold does not answer (on ")
    assert not level_of(site, "silver")["trouble"]
    assert 'tierd_level_usable{level="gold"} 0' in site.request("GET", "/metrics").body
    assert 'tierd_level_usable{level="silver"} 1' in site.request("GET", "/metrics").body
    said = subprocess.run([TIERD, "status", *site.common()], capture_output=True, text=True, check=True).stdout
    assert "the file system of the level gold does not answer" in said
    worker.wait_line("the file system of the level gold does not answer: what needs it waits")
    wait_until(lambda: "it waits for a worker that reaches bronze and gold: the file system of the level gold does not "
               "answer" in explain(site, 1), 60, "explain names the level")

    gold.answer()
    for cid in range(1, 5):
        wait_until(lambda c=cid: site.level(c) == "gold", 60, f"{cid} at gold")
    wait_until(lambda: not level_of(site, "gold")["trouble"], 60, "the trouble is over")
    for cid in range(13, 15):
        assert site.post(cid, 5000).status == 200
    for cid in range(13, 15):
        site.wait_moved(cid, f"{cid}.mp4", "gold")
    wait_until(lambda: len(worker.processes()) == 3, what="who was given up has ended")
    assert len(worker.children()) == 2 and len(worker.lookers()) == 1
    assert worker.stop() == 0


def test_a_hang_is_not_its_jobs_fault(site, gold):
    """Who waits for a level that hangs is killed; the job waits for the level, and five hangs are no five crashes."""
    add(site, 1, "bronze")
    worker = site.both(workers=1)
    ready(site)
    gold.hang()
    assert site.post(1, 5000).status == 200
    wait_until(lambda: site.redis.cli("HGET", "tierd:job:1", "state") == "claimed", what="the claim")
    site.redis.cli("HSET", "tierd:job:1", "crashes", "4")
    worker.wait_line("role worker has not turned for .* it waits for gold, .*it is killed and replaced", 4 * HUNG_S)
    wait_until(lambda: "the file system of the level gold did not answer" in site.redis.cli("HGET", "tierd:job:1", "error"),
               what="its reason")
    assert site.redis.cli("HGET", "tierd:job:1", "crashes") == "4"
    wait_until(lambda: "the file system of the level gold does not answer" in explain(site, 1), 60, "explain names the level")
    gold.answer()
    wait_until(lambda: site.level(1) == "gold", 60, "1 at gold")


def test_a_worker_starts_while_a_level_hangs(site, gold):
    """Nobody but the looker touches a level before that has come back from it."""
    for cid in range(1, 5):
        add(site, cid, "bronze")
    site.start_api()
    gold.hang()
    for cid, count in ((1, 5000), (2, 5000), (3, 1500), (4, 1500)):
        assert site.post(cid, count).status == 200
    worker = site.start_worker(workers=1)
    for cid in (3, 4):
        wait_moved(site, cid, "silver")
    worker.wait_line("the file system of the level gold does not answer: what needs it waits", 6 * HUNG_S)
    wait_until(lambda: "the file system of the level gold does not answer" in explain(site, 1), 60, "explain names the level")
    gold.answer()
    for cid in (1, 2):
        wait_until(lambda c=cid: site.level(c) == "gold", 60, f"{cid} at gold")
    assert worker.count("role worker has not turned") == 0


def test_a_reload_while_a_level_hangs(site, gold):
    """It ends, and looks at the levels anew: what hung may be another mount by now."""
    for cid in range(1, 4):
        add(site, cid, "bronze")
    worker = site.both(workers=1)
    ready(site)
    gold.hang()
    worker.wait_line("the file system of the level gold does not answer: what needs it waits", 6 * HUNG_S)
    old, told = worker.children(), len(worker.lines)
    assert site.post(1, 5000).status == 200
    worker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: worker.children() and not set(old) & set(worker.children()), what="another child")
    assert site.post(2, 1500).status == 200
    wait_moved(site, 2, "silver")
    worker.wait_line("the file system of the level gold does not answer: what needs it waits", 6 * HUNG_S, start=told)
    assert worker.count("role worker has not turned") == 0
    if gold.killable:  # who looked before is of no use any more
        worker.wait_line("a child that was given up has ended")

    gold.mount_anew()
    worker.process.send_signal(signal.SIGHUP)
    wait_until(lambda: site.level(1) == "gold", 60, "1 at gold")
    wait_until(lambda: not level_of(site, "gold")["trouble"], 60, "the trouble is over")


def test_sigterm_ends_the_service_though_a_level_hangs(site, gold):
    add(site, 1, "bronze")
    site.start_api()
    worker = site.start_worker("--drain-timeout=8s", workers=2)
    ready(site)
    gold.hang()
    assert site.post(1, 5000).status == 200
    worker.wait_line("gold does not answer", 4 * HUNG_S)
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert time.monotonic() - began < 8
    if len(gold.servers) and worker.processes():
        worker.wait_line("stuck in the kernel")


def test_sigterm_before_anybody_has_noticed(site, gold):
    add(site, 1, "bronze")
    site.start_api()
    worker = site.start_worker("--drain-timeout=8s", workers=1)
    ready(site)
    gold.hang()
    assert site.post(1, 5000).status == 200
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert time.monotonic() - began < 8.5


def command(site, gold, *words):
    """Status, and what a command of the operator said; it ends although gold hangs."""
    roots = [f"--root={r}" for r in site.roots] if words[0] in ("check", "init-level") else []
    process = subprocess.Popen([TIERD, *words, *roots, *site.common()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, preexec_fn=die_with_parent())
    try:
        said, _ = process.communicate(timeout=12 * HUNG_S)
    except subprocess.TimeoutExpired:
        gold.answer()
        process.communicate()
        pytest.fail(f"{words} waits for the level")
    return process.returncode, said


def test_commands_end_while_a_level_hangs(site, gold):
    """They name it, and do what does not need it."""
    add(site, 1, "bronze")
    (site.paths["silver"] / "unknown.mp4").write_bytes(b"x")
    site.start_api()
    gold.hang()
    status, said = command(site, gold, "check")
    path = site.paths["gold"]
    assert status == 1
    assert f"level gold: {path}: its file system does not answer; its contents are not looked at" in said
    assert '"unknown.mp4": it stands in silver' in said and "1 in order" in said and "1 level not looked at" in said
    status, said = command(site, gold, "init-level", "gold")
    assert status == 1
    assert f"the directory {path} of the level gold cannot be opened: its file system does not answer" in said
    status, said = command(site, gold, "init-level", "silver")
    assert status == 0 and "silver: " in said
    assert command(site, gold, "status")[0] == 0 and command(site, gold, "explain", "1")[0] == 0
    gold.answer()
    assert command(site, gold, "init-level", "gold")[0] == 0


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_child_that_hangs_is_named_killed_and_replaced(site, role):
    add(site, 1, "bronze")
    site.both(workers=1)
    service = site.api if role == "api" else site.running[-1]
    child, = service.children()
    freeze(child)
    line = service.wait_line(f"child {child} of role {role} has not turned for", HANG_S + 15)
    assert "it is killed and replaced" in line
    wait_until(lambda: service.children() and child not in service.children(), what="another child")
    wait_until(lambda: site.post(1, 1500).status == 200, what="a post is taken")
    site.wait_moved(1, "1.mp4", "silver")
    assert service.count("has not turned") == 1


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_reload_ends_though_a_child_hangs(site, role):
    add(site, 1, "bronze")
    site.start_api("--drain-timeout=1s")
    site.start_worker("--drain-timeout=1s", workers=1)
    service = site.api if role == "api" else site.running[-1]
    child, = service.children()
    freeze(child)
    service.process.send_signal(signal.SIGHUP)
    service.wait_line(f"child {child} of role {role} .*did not end for the new settings", 15)
    wait_until(lambda: service.children() and child not in service.children(), what="another child")
    wait_until(lambda: site.post(1, 1500).status == 200, what="a post is taken")
    site.wait_moved(1, "1.mp4", "silver")


def test_what_was_stopped_as_a_whole_is_not_taken_for_hanging(site):
    """A machine that sleeps, a debugger: nobody could say that he turns."""
    site.both(workers=2)
    worker = site.running[-1]
    everybody = [worker.process.pid, *worker.processes()]
    freeze(*everybody)
    time.sleep(HANG_S + 3)  # there is no outside sign to wait for
    thaw(*reversed(everybody))
    add(site, 1, "bronze")
    assert site.post(1, 1500).status == 200
    site.wait_moved(1, "1.mp4", "silver")
    assert worker.count("has not turned") == 0 and set(worker.processes()) == set(everybody[1:])


def test_a_level_that_is_not_mounted_is_named_in_status(site):
    subprocess.run([TIERD, "init-level", "gold", *site.common(), *(f"--root={r}" for r in site.roots)], check=True,
                   capture_output=True)
    site.both(workers=1)
    ready(site)
    assert level_of(site, "gold")["trouble"] == []
    site.paths["gold"].rename(site.paths["gold"].with_name("away"))
    site.paths["gold"].mkdir()
    wait_until(lambda: level_of(site, "gold")["trouble"], what="the status names the level")
    assert "is its file system mounted?" in level_of(site, "gold")["trouble"][0]
    site.paths["gold"].rmdir()
    wait_until(lambda: "No such file" in "".join(level_of(site, "gold")["trouble"]), what="the other reason")
    site.paths["gold"].with_name("away").rename(site.paths["gold"])
    wait_until(lambda: not level_of(site, "gold")["trouble"], what="the trouble is over")
