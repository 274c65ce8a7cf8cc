"""Rows 1 to 3 and 20 to 26 of PROTOCOL.md's fault matrix: a fault at every single system call.

The calls of an undisturbed operation are recorded first; then one run for each of them, with the fault there.
"""
import collections
import contextlib
import functools
import operator
import os

import pytest
from conftest import site_on_two
from harness import shorten
from harness.servers import ROOT
from harness.strace import available
from lanes import SCENARIOS, Case, End, Lanes, Short, Stop, record, run
from mounts import fuse_available, more_levels, pools_available

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))

RECORDINGS = 10
TRIES = 6  # a call whose number depends on timing may not be made in a run; that run says nothing
# These are made or not as the answer is there already or is not: the last of them may never come again.
WAITING = {"poll", "ppoll", "epoll_pwait", "recvfrom", "rt_sigtimedwait"}
# Some words to Redis are due by the clock (alive, progress, scan): the last one may fall behind the end of the run.
BY_THE_CLOCK = {"sendto"}


@pytest.fixture(scope="module")
def lanes(servers, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(site_on_two(servers, tmp_path_factory.mktemp("levels")))
        stack.enter_context(more_levels(site))
        yield stack.enter_context(Lanes(site))


def counts_of(lanes, name, more=()):
    """How often each call is made, at the least, in a few recordings; and how often more, at the most."""
    recordings = []
    for _, calls in lanes.each(record, [(SCENARIOS[name], more)] * RECORDINGS):
        assert isinstance(calls, list), calls
        recordings.append(collections.Counter(call for call, _ in calls))
    least = functools.reduce(operator.and_, recordings)
    return least, functools.reduce(operator.or_, recordings) - least


def run_all(lanes, cases, table, title):
    """Runs all cases; those whose call was not made are run again. How often each status was the end."""
    failures, not_reached, statuses = [], list(cases), collections.Counter()
    for _ in range(TRIES):
        again = []
        for (case,), outcome in lanes.each(run, not_reached):
            if isinstance(outcome, str) or outcome.failure:
                failures.append(f"{case}: {outcome if isinstance(outcome, str) else outcome.failure}")
            elif not outcome.reached:
                again.append(case)
            else:
                statuses[outcome.status] += 1
        not_reached = again
        if not again:
            break
    passed = sum(statuses.values())
    table.append(f"  {title:<32} {len(cases):>4} runs {passed:>4} passed {len(failures):>3} failed "
                 f"{len(not_reached):>3} not reached   {dict(statuses)}")
    if failures:
        report = ROOT / "build" / f"faults-{title.replace(' ', '-')}.txt"
        report.write_text("\n\n".join(failures))
        pytest.fail(f"{len(failures)} of {len(cases)} runs, all in {report}:\n" + "\n\n".join(failures[:5]), pytrace=False)
    last = {case.call: case.ordinal for case in sorted(cases, key=lambda case: case.ordinal)}
    missed = [case for case in not_reached if case.call not in WAITING
              and not (case.call in BY_THE_CLOCK and case.ordinal == last[case.call])]
    assert not missed, "not reached: " + ", ".join(map(str, missed))
    assert passed >= 0.9 * len(cases), f"only {passed} of {len(cases)} runs met their fault"
    return statuses


# What changes something outside the process; a partial run has all of these.
CHANGING = {"mkdirat", "linkat", "renameat", "renameat2", "unlinkat", "fsync", "ftruncate", "copy_file_range", "pwrite64",
            "sendto", "fchmod", "utimensat", "fsetxattr", "writev"}
STEP = 9  # of the other calls, a partial run takes every ninth


def chosen(cases, full, always=CHANGING):
    if full:
        return cases
    others = [c for c in cases if c.call not in always]
    return [c for c in cases if c.call in always] + others[::STEP]


IN_PART = {"copy", "link", "group", "post", "update", "into the pool"}
ALIASED = ["into the pool", "out of the pool", "spare in the pool", "spare in the branch"]
FUSE = ["into links", "out of links", "into renames", "out of renames", "out of neither"]


def left_out(name, full):
    if name not in IN_PART and not full:
        pytest.skip("only in the full run")
    if name in FUSE and fuse_available():
        pytest.skip(fuse_available())
    if name in ALIASED and pools_available():
        pytest.skip(pools_available())


@pytest.mark.parametrize("name", ["copy", "link", "holes", "group", "group link", "adopt", "conflict", *FUSE, "post", "update"])
def test_killed_at_every_call(lanes, name, full, table):
    left_out(name, full)
    counts, varying = counts_of(lanes, name)
    cases = [Case(name, call, n, "signal=KILL") for call in sorted(counts) for n in range(1, counts[call] + 1)]
    table.append(f"{name}: {sum(counts.values())} calls; by timing sometimes more: {dict(varying)}")
    run_all(lanes, chosen(cases, full), table, f"{name}, killed at")


@pytest.mark.parametrize("name", ["copy", "link", "group", "holes", "adopt", "conflict"])
def test_stopped_at_every_call(lanes, name, full, table):
    """A stop is a real stop: nothing is lost, counted, or left to be found out by a lease that runs out."""
    left_out(name, full)
    counts, _ = counts_of(lanes, name)
    cases = [Stop(name, call, n, "signal=TERM") for call in sorted(counts) for n in range(1, counts[call] + 1)]
    run_all(lanes, chosen(cases, full, CHANGING | {"recvfrom"}), table, f"{name}, stopped at")


@pytest.mark.full_only
@pytest.mark.parametrize("name", ["copy", "group", "post", "update"])
def test_a_child_told_to_end_at_every_call(lanes, name, table):
    """As a reload does it, or a person: the supervisor stays, and puts another child in its place."""
    counts, _ = counts_of(lanes, name)
    cases = [End(name, call, n, "signal=TERM") for call in sorted(counts) for n in range(1, counts[call] + 1)]
    run_all(lanes, cases, table, f"{name}, told to end at")


# What each call may answer, beside EIO. Short counts have a test of their own, below.
ERRORS = {
    "open": "EMFILE EINTR EACCES", "openat": "EMFILE EINTR EACCES ENOSPC EOPNOTSUPP", "close": "EINTR EDQUOT",
    "fstat": "ENOMEM", "newfstatat": "ENOMEM EACCES", "fcntl": "EAGAIN EINVAL", "flock": "EAGAIN EINTR ENOLCK",
    "mkdirat": "ENOSPC EDQUOT EROFS EACCES", "fchown": "EPERM EINTR", "fchmod": "EPERM EINTR",
    "fsync": "ENOSPC EDQUOT EINTR EROFS", "fstatfs": "ENOSYS EINTR", "fallocate": "ENOSPC EDQUOT EOPNOTSUPP EINTR EFBIG",
    "fadvise64": "EINVAL", "ioctl": "ENOTTY EXDEV EINVAL", "sync_file_range": "ENOSPC ENODATA ENOSYS",
    "copy_file_range": "EXDEV EINTR ENOSYS EOPNOTSUPP EINVAL EPERM EBADF ETXTBSY ENOSPC EDQUOT EFBIG ENOMEM =0",
    "pread64": "EINTR ENOMEM =0", "pwrite64": "EINTR ENOSPC EDQUOT EFBIG =0", "lseek": "EINVAL ENXIO",
    "ftruncate": "ENOSPC EINTR EFBIG", "flistxattr": "ERANGE", "fgetxattr": "ENODATA ERANGE",
    "fsetxattr": "ENOSPC EDQUOT EPERM EOPNOTSUPP", "utimensat": "EPERM",
    "linkat": "ENOSPC EDQUOT EXDEV EPERM EMLINK ENOENT EINVAL EROFS EINTR", "renameat2": "EINVAL ENOSYS ENOSPC EROFS EINTR",
    "renameat": "ENOSPC EROFS EINTR EACCES", "unlinkat": "EBUSY EROFS EPERM EINTR", "write": "EAGAIN ENOSPC EPIPE EINTR",
    "mmap": "ENOMEM", "socket": "EMFILE", "connect": "ECONNREFUSED EINTR", "sendto": "EPIPE ECONNRESET EINTR",
    "recvfrom": "ECONNRESET EINTR =0", "poll": "EINTR ENOMEM", "ppoll": "EINTR ENOMEM", "getsockopt": "ENOMEM",
    "setsockopt": "ENOMEM",
}
NO_EIO = {"mmap", "socket", "connect", "sendto", "recvfrom", "poll", "ppoll", "getsockopt", "setsockopt"}


def faults_of(call):
    words = ([] if call in NO_EIO else ["EIO"]) + ERRORS.get(call, "").split()
    return [f"retval={w[1:]}" if w.startswith("=") else f"error={w}" for w in words]


@pytest.mark.parametrize("name", ["copy", "link", "holes", "group", "group link", "adopt", "conflict", *FUSE])
def test_an_error_at_every_call(lanes, name, full, table):
    """One error, once: the move is made in the end, or the job says why not; nothing is lost meanwhile."""
    left_out(name, full)
    counts, _ = counts_of(lanes, name)
    calls = [(call, n) for call in sorted(ERRORS) for n in range(1, counts[call] + 1)]
    if name == "out of neither":  # what is open keeps a name there, and a close that answers an error is not made at all
        calls = [(call, n) for call, n in calls if call != "close"]
    cases = [Case(name, call, n, fault) for call, n in calls for fault in faults_of(call)]
    if not full:
        cases = [c for i, c in enumerate(c for c in cases if c.call in CHANGING) if i % 3 == 0]
    run_all(lanes, cases, table, f"{name}, an error at")


# ---- levels that show the same file ----

def aliased_runs(lanes, name, faults, full, table, title):
    counts, _ = counts_of(lanes, name)
    cases = [Case(name, call, n, fault) for call in sorted(counts) for n in range(1, counts[call] + 1) for fault in faults(call)]
    cases = chosen(cases, full, CHANGING | {"flock", "newfstatat"})
    statuses = run_all(lanes, cases, table, f"{name}, {title}")
    assert set(statuses) == {"dead" if name.endswith("the pool") and not name.startswith("spare") else "done"}


@pytest.mark.parametrize("name", ALIASED)
def test_killed_at_every_call_between_levels_that_show_the_same_file(lanes, name, full, table):
    """Not a byte is lost, not for a moment: the job ends dead, or finished where there was nothing to move."""
    left_out(name, full)
    aliased_runs(lanes, name, lambda call: ["signal=KILL"], full, table, "killed at")


@pytest.mark.full_only
@pytest.mark.parametrize("name", ALIASED)
def test_an_error_at_every_call_between_levels_that_show_the_same_file(lanes, name, full, table):
    left_out(name, full)
    aliased_runs(lanes, name, lambda call: faults_of(call) if call in ERRORS else [], full, table, "an error at")


# ---- short counts ----

HOWS = ("1", "half", "less1")
# What is received is as long as what was sent, however much was asked for: only these make a difference.
HOWS_OF = {"recvfrom": ("1", "5")}
# Whose calls are shortened. To one byte each time takes long with a large file: there are tiny ones for it.
SHORT = {"copy": ("pread64", "pwrite64"), "holes": ("pread64", "pwrite64"), "near": ("copy_file_range",),
         "near holes": ("copy_file_range",), "adopt": ("pread64",), "link": ("sendto", "recvfrom"),
         "post": ("sendto", "recvfrom"), "update": ("sendto", "recvfrom")}
EACH_TO_ONE = {"tiny": ("pread64", "pwrite64"), "near tiny": ("copy_file_range",)}


def short_cases(name, counts):
    """Each call of the operation cut short, alone; and all of them."""
    for call in SHORT[name]:
        assert counts[call], f"no {call} in {name}: {counts}"
        socket = call in ("sendto", "recvfrom")
        for how in HOWS_OF.get(call, HOWS):
            yield from (Short(name, call, n, how) for n in range(1, counts[call] + 1))
            if socket or how != "1":
                yield Short(name, call, 0, how)


@pytest.mark.skipif(shorten.available() is not None, reason=str(shorten.available()))
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_row_26_short_counts(lanes, full, table):
    """Less was transferred than was asked for: no error, no attempt, the same bytes in the end."""
    cases = [Short(name, call, 0, "1") for name, calls in EACH_TO_ONE.items() for call in calls]
    for name in SHORT:
        counts, _ = counts_of(lanes, name)
        cases += short_cases(name, counts)
    if not full:
        cases = [c for i, c in enumerate(cases) if c.ordinal == 0 or i % STEP == 0]
    statuses = run_all(lanes, cases, table, "short counts")
    assert set(statuses) == {"done"}
