"""Fixtures: a town (harness/town.py) for all tests of a run, whole again before each of them; and a site in it."""
import contextlib
import os
import shutil
import tempfile
import time

import pytest
from conftest import Site
from harness.namespaces import available
from harness.town import Town

STORAGE, MORE = 2, ("redis2", "db2")


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
