"""Levels on file systems of other kinds, mounted for a test and unmounted after it."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import time

from harness.servers import Failed, die_with_parent, stop_process

NEAR = "near"      # on the disk of bronze and silver, behind a mount of its own: a link is refused
LINKS = "links"    # a file system without unnamed files and without a rename that replaces nothing (bindfs)
RENAMES = "renames"  # one without unnamed files (fuse-overlayfs); its links are refused by the run
NEITHER = "neither"  # one without any of these (exFAT)
MIN_COUNTS = {NEAR: 3000, LINKS: 4000, RENAMES: 5000, NEITHER: 6000}
MOUNT_TIMEOUT_S = 30


def fuse_available():
    """None, or why no file system in user space can be mounted here."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not pathlib.Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    missing = [p for p in ("bindfs", "fuse-overlayfs", "mount.exfat-fuse", "mkfs.exfat") if not shutil.which(p)]
    return f"not installed: {missing}" if missing else None


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


@contextlib.contextmanager
def image(where, kind, size=400 * 2**20, mkfs=(), options=()):
    """A file system in a file beside `where`."""
    file = where.with_name(where.name + ".img")
    with open(file, "wb") as f:
        f.truncate(size)
    subprocess.run([f"mkfs.{kind}", "-q", *mkfs, file], check=True, capture_output=True)
    with mounted(where, "-o", ",".join(("loop", *options)), file):
        yield where


@contextlib.contextmanager
def fuse(where, *words):
    """A file system whose process is a child of ours: words are its command, to run in the foreground."""
    where.mkdir(parents=True)
    log = where.with_name(where.name + ".log")
    with open(log, "wb") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   preexec_fn=die_with_parent(), start_new_session=True)
    try:
        deadline = time.monotonic() + MOUNT_TIMEOUT_S
        while not os.path.ismount(where):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{words[0]} did not mount: {log.read_text()}")
            time.sleep(0.02)
        yield where
    finally:
        if os.path.ismount(where) and subprocess.run(["umount", where], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", where], capture_output=True, check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        stop_process(process)


def bindfs(where, *options):
    data = where.with_name(where.name + "-data")
    data.mkdir(parents=True)
    return fuse(where, "bindfs", "-f", *options, data, where)


def fuse_overlayfs(where):
    folders = {name: where.with_name(f"{where.name}-{name}") for name in ("lowerdir", "upperdir", "workdir")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return fuse(where, "fuse-overlayfs", "-f", "-o", ",".join(f"{k}={v}" for k, v in folders.items()), where)


@contextlib.contextmanager
def exfat(where, size=64 * 2**20):
    """No unnamed files, no links, no rename that replaces nothing; one owner and one mode (0644) for all, no extended
    attributes."""
    image = where.with_name(where.name + ".img")
    with open(image, "wb") as f:
        f.truncate(size)
    subprocess.run(["mkfs.exfat", image], check=True, capture_output=True)
    device = subprocess.run(["losetup", "--show", "-f", image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        with fuse(where, "mount.exfat-fuse", "-d", "-o", "fmask=0133", device, where):
            yield where
    finally:
        subprocess.run(["losetup", "-d", device], check=True, capture_output=True)


def add_level(site, name, path):
    """A level beside the site's own three."""
    site.paths[name] = path
    site.db.sql(f"INSERT INTO level VALUES ('{name}', '{path}', {MIN_COUNTS[name]})")


@contextlib.contextmanager
def more_levels(site):
    """All of the levels above that can be had here."""
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            stack.enter_context(near_level(site))
        if fuse_available() is None:
            add_level(site, LINKS, stack.enter_context(bindfs(site.folder / LINKS)))
            add_level(site, NEITHER, stack.enter_context(exfat(site.folder / NEITHER)))
            add_level(site, RENAMES, stack.enter_context(fuse_overlayfs(site.folder / RENAMES)))
        yield


@contextlib.contextmanager
def near_level(site):
    """A bind mount within the file system: link(2) does not cross it, copy_file_range(2) does."""
    data = site.folder / "near-data"
    data.mkdir()
    with mounted(site.folder / NEAR, "--bind", data) as where:
        assert os.stat(where).st_dev == os.stat(site.paths["bronze"]).st_dev
        add_level(site, NEAR, where)
        yield
