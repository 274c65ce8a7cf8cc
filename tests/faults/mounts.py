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
BRANCH = "branch"    # a level that is a branch of the next
POOL = "pool"        # mergerfs: shows what is in BRANCH
MIN_COUNTS = {NEAR: 3000, LINKS: 4000, RENAMES: 5000, NEITHER: 6000, BRANCH: 7000, POOL: 8000}
MOUNT_TIMEOUT_S = 30
SFTP_SERVER = pathlib.Path("/usr/lib/openssh/sftp-server")


def fuse_available():
    """None, or why no file system in user space can be mounted here."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not pathlib.Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    missing = [p for p in ("bindfs", "fuse-overlayfs", "mount.exfat-fuse", "mkfs.exfat") if not shutil.which(p)]
    return f"not installed: {missing}" if missing else None


def pools_available():
    """None, or why a pooled, layered or remote file system cannot be mounted here."""
    if fuse_available():
        return fuse_available()
    missing = [p for p in ("mergerfs", "sshfs", "unionfs", "gocryptfs") if not shutil.which(p)]
    missing += [] if SFTP_SERVER.exists() else [str(SFTP_SERVER)]
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
    where.mkdir(parents=True, exist_ok=True)
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


def beside(where, what):
    """A folder for what is mounted at `where`."""
    folder = where.with_name(f"{where.name}-{what}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def bindfs(where, *options, data=None):
    """Shows `data`, a folder of its own if none is named."""
    data = data or beside(where, "data")
    return fuse(where, "bindfs", "-f", *options, data, where)


def fuse_overlayfs(where, data=None):
    folders = {name: beside(data or where, name) for name in ("lowerdir", "upperdir", "workdir")}
    return fuse(where, "fuse-overlayfs", "-f", "-o", ",".join(f"{k}={v}" for k, v in folders.items()), where)


def mergerfs(where, *branches, options=""):
    """A pool. What is created goes into the first branch, what is looked for is taken from the first that has it."""
    chosen = ",".join(filter(None, ("category.create=ff,minfreespace=0", options)))
    for branch in branches:
        branch.mkdir(parents=True, exist_ok=True)
    return fuse(where, "mergerfs", "-f", "-o", chosen, ":".join(map(str, branches)), where)


def add_branch(pool, branch, first=True):
    """One more branch for a pool that is in use (mergerfs: a control file's attribute)."""
    os.setxattr(pool / ".mergerfs", "user.mergerfs.branches", f"{'+<' if first else '+>'}{branch}".encode())


def sshfs(where, data):
    """`data` by SFTP, without a network: the server's standard input and output are the connection."""
    command = where.with_name(f"{where.name}-ssh")
    command.write_text(f"#!/bin/sh\nexec {SFTP_SERVER}\n", encoding="ascii")
    command.chmod(0o755)
    return fuse(where, "sshfs", "-f", "-o", f"ssh_command={command}", f"nowhere:{data}", where)


def unionfs(where, data=None):
    """A branch for writing above one for reading (unionfs-fuse)."""
    branches = [f"{beside(data or where, name)}={name.upper()}" for name in ("rw", "ro")]
    return fuse(where, "unionfs", "-f", "-o", "cow", ":".join(branches), where)


def gocryptfs(where, data=None):
    data, secret = data or beside(where, "data"), where.with_name(f"{where.name}-secret")
    secret.write_text("no secret\n", encoding="ascii")
    if not (data / "gocryptfs.conf").exists():
        subprocess.run(["gocryptfs", "-init", "-q", "-scryptn", "10", "-passfile", secret, data], check=True,
                       capture_output=True)
    return fuse(where, "gocryptfs", "-fg", "-q", "-passfile", secret, data, where)


def overlay(where, lower=None, upper=None):
    """The kernel's overlay file system."""
    lower, upper = lower or beside(where, "lower"), upper or beside(where, "upper")
    work = upper.with_name(f"{upper.name}-work")  # on the file system of the upper one
    work.mkdir(exist_ok=True)
    return mounted(where, "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay")


def bound(where, data):
    return mounted(where, "--bind", data)


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


# How file systems in user space show what lies in `data`, or beside it.
LAYERS = {"bindfs": lambda where, data: bindfs(where, data=data), "mergerfs": mergerfs, "gocryptfs": gocryptfs,
          "unionfs": unionfs, "fuse-overlayfs": fuse_overlayfs}


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
        if pools_available() is None:
            (site.folder / BRANCH).mkdir()
            add_level(site, BRANCH, site.folder / BRANCH)
            add_level(site, POOL, stack.enter_context(mergerfs(site.folder / POOL, site.folder / "apart", site.folder / BRANCH)))
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
