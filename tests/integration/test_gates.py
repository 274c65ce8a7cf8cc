"""What keeps a job from starting, or slows it: pauses, the window, busy levels, reach, bandwidth, retire-delay."""
import contextlib
import json
import os
import re
import time

from conftest import make_site, sha, wait_until


def hhmm(offset_min):
    return time.strftime("%H:%M", time.localtime(time.time() + offset_min * 60))


def parked(site, gate):
    return int(site.redis.cli("ZCARD", f"tierd:parked:{gate}"))


def test_outside_the_window_moves_wait(site):
    site.sample()
    site.start_api()
    worker = site.start_worker(f"--window={hhmm(120)}-{hhmm(180)}")
    assert site.post(4, 2500).status == 200
    wait_until(lambda: parked(site, "@window") == 1, what="parked")
    assert site.redis.cli("ZCARD", "tierd:due") == "0" and site.places("d.mp4") == ["bronze"]
    opens = int(site.redis.cli("HGET", "tierd:paused", "@window")) - time.time() * 1000
    assert 110 * 60000 < opens <= 121 * 60000
    worker.stop()
    site.redis.cli("HSET", "tierd:paused", "@window", "1")  # the hour has come
    site.start_worker(f"--window={hhmm(-60)}-{hhmm(60)}")
    site.wait_moved(4, "d.mp4", "gold")
    assert site.redis.cli("EXISTS", "tierd:paused") == "0"


def test_a_window_that_was_changed_holds_nothing_back(site):
    site.sample()
    site.start_api()
    worker = site.start_worker(f"--window={hhmm(120)}-{hhmm(180)}")
    site.post(4, 2500)
    wait_until(lambda: parked(site, "@window") == 1, what="parked")
    worker.stop()
    worker = site.start_worker(f"--window={hhmm(60)}-{hhmm(180)}")
    wait_until(lambda: int(site.redis.cli("HGET", "tierd:paused", "@window") or 0) - time.time() * 1000 < 61 * 60000
               and parked(site, "@window") == 1, what="it waits for the new one")
    worker.stop()
    site.start_worker()
    site.wait_moved(4, "d.mp4", "gold")


def test_the_window_of_another_server_holds_nothing_back(site):
    site.sample()
    site.start_api()
    site.start_worker("--levels=gold,silver", f"--window={hhmm(120)}-{hhmm(180)}")
    site.post(7, 1964)  # bronze to silver
    wait_until(lambda: parked(site, "@route\nbronze\nsilver\n") == 1, what="left to others")
    site.start_worker("--levels=bronze,silver")
    site.wait_moved(7, "g.mp4", "silver")


def test_a_post_brings_a_parked_job_back(site):
    """To where it is: nothing is left parked."""
    site.sample()
    site.start_api()
    site.redis.cli("HSET", "tierd:paused", "gold", "0")
    site.start_worker()
    site.post(4, 2500)
    wait_until(lambda: parked(site, "gold") == 1, what="parked")
    site.post(4, 1500)  # silver is not paused
    site.wait_moved(4, "d.mp4", "silver")
    assert parked(site, "gold") == 0
    site.post(4, 2500)
    wait_until(lambda: parked(site, "gold") == 1, what="parked again")
    site.post(4, 1500)
    assert parked(site, "gold") == 0 and site.job(4)["status"] == "done"


def test_a_full_level_is_paused_and_opens_again(servers, tmp_path, mounted_tmpfs):
    """ENOSPC: the level waits, its jobs cost no attempt, and other levels go on."""
    site = make_site(servers, tmp_path, mounted_tmpfs)
    try:
        filler = mounted_tmpfs / "filler"
        with contextlib.suppress(OSError), open(filler, "wb") as f:
            while True:
                f.write(bytes(65536))
        for cid in (1, 2, 3):
            site.add(cid, f"{cid}.bin", "bronze", os.urandom(3 * 2**20))
        worker = site.both(workers=2)
        site.post(1, 5000)
        site.post(2, 5000)
        worker.wait_line(r"no space left in gold")
        wait_until(lambda: parked(site, "gold") == 2, what="both wait for gold")
        assert int(site.redis.cli("HGET", "tierd:paused", "gold")) > time.time() * 1000
        site.post(3, 1500)
        site.wait_moved(3, "3.bin", "silver")
        filler.unlink()
        site.redis.cli("HSET", "tierd:paused", "gold", "1")  # the pause is over
        site.post(3, 1000)  # anything wakes a worker
        for cid in (1, 2):
            site.wait_moved(cid, f"{cid}.bin", "gold")
        assert site.redis.cli("HGET", "tierd:job:1", "attempts") in ("", "0")
    finally:
        site.close()


def test_most_jobs_into_one_level(two_fs):
    """Never more than one move into gold at once, though four workers are free; all get their turn."""
    for cid in range(1, 7):
        two_fs.add(cid, f"{cid}.bin", "bronze", os.urandom(2 * 2**20))
    two_fs.start_api()
    worker = two_fs.start_worker("--level-jobs=1", "--bandwidth=8M", workers=4)
    for cid in range(1, 7):
        two_fs.post(cid, 5000)
    for cid in range(1, 7):
        two_fs.wait_moved(cid, f"{cid}.bin", "gold")
    wait_until(lambda: two_fs.redis.cli("KEYS", "tierd:job:*") == "", what="all finished")
    assert worker.count(" moves bronze to gold") == 6
    assert two_fs.redis.cli("EXISTS", "tierd:active:gold") == "0"
    assert parked(two_fs, "@busy:gold") == 0


def test_a_worker_takes_only_what_it_reaches(site):
    """Two servers share a queue: each moves between its own levels, what neither reaches waits."""
    site.sample()
    site.start_api()
    left = site.start_worker("--levels=bronze,silver", workers=1)
    site.post(7, 1964)  # bronze to silver
    site.wait_moved(7, "g.mp4", "silver")
    site.post(4, 2500)  # bronze to gold
    route = "@route\nbronze\ngold\n"
    wait_until(lambda: parked(site, route) == 1, what="it waits for somebody who reaches gold")
    assert site.places("d.mp4") == ["bronze"]
    right = site.start_worker("--levels=gold,bronze", workers=1)
    site.wait_moved(4, "d.mp4", "gold")
    assert left.count("d.mp4 moves") == 0 and right.count("d.mp4 moves") == 1
    wait_until(lambda: site.redis.cli("EXISTS", "tierd:routes") == "0", what="the route is forgotten")
    right.stop()
    site.redis.cli("SET", "8", json.dumps({"cid": "8", "count": "2500", "target": "gold", "db_level": "bronze",
                                           "filename": "h.mp4", "worker_id": None, "status": "update"}))
    wait_until(lambda: parked(site, route) == 1, what="what another program wrote is parked too")
    site.start_worker("--levels=gold,bronze", workers=1)
    site.wait_moved(8, "h.mp4", "gold")


def test_bandwidth_is_shared_by_all_children(two_fs):
    """24 MiB at 8 MiB/s by three children: at least two seconds, whatever the machine does."""
    for cid in range(1, 4):
        two_fs.add(cid, f"{cid}.bin", "bronze", os.urandom(8 * 2**20))
    before = {cid: sha(two_fs.paths["bronze"] / f"{cid}.bin") for cid in range(1, 4)}
    two_fs.start_api()
    two_fs.start_worker("--bandwidth=8M", workers=3, lease="1s")
    started = time.monotonic()
    for cid in range(1, 4):
        two_fs.post(cid, 5000)
    for cid in range(1, 4):
        two_fs.wait_moved(cid, f"{cid}.bin", "gold")
        assert sha(two_fs.paths["gold"] / f"{cid}.bin") == before[cid]
    assert time.monotonic() - started > 2.0


def test_the_old_copy_stays_for_readers_with_a_cache(two_fs):
    two_fs.sample()
    two_fs.start_api()
    worker = two_fs.start_worker("--retire-delay=2s")
    two_fs.post(4, 2500)
    wait_until(lambda: two_fs.level(4) == "gold", what="committed")
    committed = time.monotonic()
    assert two_fs.places("d.mp4") == ["bronze", "gold"]
    two_fs.wait_moved(4, "d.mp4", "gold")
    assert time.monotonic() - committed > 1.5
    two_fs.post(4, 0)  # back, and forth again while the copy in gold still stands
    wait_until(lambda: two_fs.level(4) == "bronze", what="committed")
    two_fs.post(4, 2500)
    wait_until(lambda: two_fs.level(4) == "gold", what="committed")
    two_fs.wait_moved(4, "d.mp4", "gold")
    assert (two_fs.paths["gold"] / "d.mp4").read_bytes() == b"content 4" * 100
    assert worker.count("a child died") == 0 and two_fs.leftovers() == []


def test_a_file_larger_than_the_limit_kills_nobody(two_fs):
    """RLIMIT_FSIZE: EFBIG is the file's fault; the level is not paused and the child lives."""
    import resource
    two_fs.add(1, "big.bin", "bronze", os.urandom(300000))
    two_fs.add(2, "small.bin", "bronze", os.urandom(1000))
    two_fs.start_api()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    worker = two_fs.start_worker()
    for pid in worker.children():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100000, hard))
    two_fs.post(1, 5000)
    worker.wait_line(r"will be tried again.*File too large|EFBIG")
    two_fs.post(2, 5000)
    two_fs.wait_moved(2, "small.bin", "gold")
    assert worker.count("a child died") == 0 and two_fs.places("big.bin") == ["bronze"]
    assert re.search(r"large", two_fs.redis.cli("HGET", "tierd:job:1", "error"))
