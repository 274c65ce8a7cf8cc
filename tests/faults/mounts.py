"""Levels on file systems of other kinds, mounted for a test and unmounted after it."""
import contextlib
import os
import subprocess

NEAR, NEAR_COUNT = "near", 3000  # on the disk of bronze and silver, behind a mount of its own: a link is refused


def mount(*words):
    subprocess.run(["mount", *words], check=True, capture_output=True)


@contextlib.contextmanager
def mounted(where, *words):
    where.mkdir(parents=True, exist_ok=True)
    mount(*words, where)
    try:
        yield where
    finally:
        if subprocess.run(["umount", where], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", where], capture_output=True, check=False)


def add_level(site, name, path, count):
    """A level beside the site's own three."""
    site.paths[name] = path
    site.db.sql(f"INSERT INTO level VALUES ('{name}', '{path}', {count})")


@contextlib.contextmanager
def near_level(site):
    """A bind mount within the file system: link(2) does not cross it, copy_file_range(2) does."""
    data = site.folder / "near-data"
    data.mkdir()
    with mounted(site.folder / NEAR, "--bind", data) as where:
        assert os.stat(where).st_dev == os.stat(site.paths["bronze"]).st_dev
        add_level(site, NEAR, where, NEAR_COUNT)
        yield
