"""Fixtures: a town (harness/town.py) for all tests of a run, whole again before each of them; and a site in it."""
import contextlib
import json
import os
import shutil
import tempfile
import time

import pytest
from conftest import Site, sha, wait_until
from faults.holding import settled
from harness.namespaces import available
from harness.town import Town

STORAGE, MORE = 2, ("redis2", "db2")
HEALTH_S = 0.95  # what /health promises, whatever hangs
SLACK_S = 0.35   # of a machine that does other work beside it
LATE_S = 10      # no machine is so slow: who takes longer hangs


@pytest.fixture(scope="session")
def shared_town():
    if why := available():
        pytest.skip(why)
    with Town(storage=STORAGE, more=MORE) as town:
        town.redis.start()
        town.db.start()
        yield town


@pytest.fixture
def town(shared_town):
    shared_town.reset()
    yield shared_town
    shared_town.reset()


class TownSite(Site):
    """Levels on a disk array that all storage hosts see below the same path; gold on another file system."""

    def __init__(self, town, folder, other):
        self.town = town
        town.db.sql("DROP TRIGGER IF EXISTS changed; DROP TABLE IF EXISTS changes")
        super().__init__(town.redis, town.db, folder, other)

    def start(self, *args, **kwargs):
        raise NotImplementedError("say where: start_api, start_worker, town.storage[n].start")

    def start_api(self, *args):
        self.api = self.town.api.start(*args)
        return self.api

    def start_worker(self, *args, workers=2, lease="2s", at=0):
        return self.town.storage[at].start(f"--workers={workers}", f"--lease={lease}", "--scan-interval=200ms",
                                           *[f"--root={r}" for r in self.roots], *args)

    def request(self, method, path, body=None, headers=None, **kwargs):
        return self.town.api.request(method, path, body, **kwargs)

    def post(self, cid, count, **kwargs):
        return self.town.api.post(cid, count, **kwargs)

    def health(self):
        """Status, body, and the seconds that it took."""
        began = time.monotonic()
        answer = self.request("GET", "/health", timeout=60)
        return answer.status, answer.body, time.monotonic() - began

    def close(self):
        self.town.reset()


@contextlib.contextmanager
def site_in(town, folder):
    if os.stat("/dev/shm").st_dev == os.stat(folder).st_dev:
        pytest.skip("/dev/shm is on the same file system as the temporary folder")
    other = tempfile.mkdtemp(prefix="tierd-test.", dir="/dev/shm")
    site = TownSite(town, folder / "levels", other)
    try:
        yield site
    finally:
        site.close()
        shutil.rmtree(other, ignore_errors=True)


@pytest.fixture
def town_site(town, tmp_path):
    with site_in(town, tmp_path) as s:
        yield s


# ---- what tests say of a site ----

def contents(site, cids, size=100000):
    """Contents at bronze: name and hash by cid."""
    found = {}
    for cid in cids:
        site.add(cid, f"{cid}.bin", "bronze", os.urandom(size))
        found[cid] = f"{cid}.bin", sha(site.paths["bronze"] / f"{cid}.bin")
    return found


def all_settled(site, found, level="gold", timeout=60):
    for cid, (name, digest) in found.items():
        settled(site, cid, name, level, digest, timeout)


def served(site, cid=1, count=0, timeout=30):
    """Seconds until a post is taken."""
    began = time.monotonic()
    wait_until(lambda: site.post(cid, count).status == 200, timeout, "a post is served")
    return time.monotonic() - began


def in_time(site, seconds=3, **away):
    """/health, asked again and again: in time, but for what a busy machine may do to some of the answers. In the end it says
    of each server what `away` does, redis="down", and "ok" of others; the status then."""
    ends, fastest = time.monotonic() + seconds, LATE_S
    wanted = {"redis": "ok", "db": "ok", **away}
    said = dict.fromkeys(wanted, "")
    while time.monotonic() < ends or any(not said[part].startswith(wanted[part]) for part in wanted):
        status, body, took = site.health()
        assert took < LATE_S, f"{body} after {took:.2f} s"
        assert time.monotonic() < ends + 20, f"{wanted} is to be said, {body} is"
        fastest, said = min(fastest, took), json.loads(body)
    assert fastest < HEALTH_S + SLACK_S, f"{fastest:.2f} s at best"
    return status
