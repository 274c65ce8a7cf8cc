"""Rows 1 to 3 and 20 to 26 of PROTOCOL.md's fault matrix: a fault at every single system call.

The calls of an undisturbed operation are recorded first; then one run for each of them, with the fault there.
"""
import collections
import functools
import operator

import pytest
from conftest import site_on_two
from harness.servers import ROOT
from harness.strace import available
from lanes import SCENARIOS, Case, Lanes, record, run

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))

RECORDINGS = 10
TRIES = 6  # a call whose number depends on timing may not be made in a run; that run says nothing
# These are made or not as the answer is there already or is not: the last of them may never come again.
WAITING = {"poll", "ppoll", "epoll_pwait", "recvfrom", "rt_sigtimedwait"}


@pytest.fixture(scope="module")
def lanes(servers, tmp_path_factory):
    with site_on_two(servers, tmp_path_factory.mktemp("levels")) as site, Lanes(site) as pool:
        yield pool


def counts_of(lanes, name, more=()):
    """How often each call is made, at the least, in a few recordings; and how often more, at the most."""
    recordings = []
    for _, calls in lanes.each(record, [(SCENARIOS[name], more)] * RECORDINGS):
        assert isinstance(calls, list), calls
        recordings.append(collections.Counter(call for call, _ in calls))
    least = functools.reduce(operator.and_, recordings)
    return least, functools.reduce(operator.or_, recordings) - least


def run_all(lanes, cases, table, title):
    """Runs all cases; those whose call was not made are run again."""
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
    missed = [case for case in not_reached if case.call not in WAITING]
    assert not missed, "not reached: " + ", ".join(map(str, missed))
    assert passed >= 0.9 * len(cases), f"only {passed} of {len(cases)} runs met their fault"


# What changes something outside the process; a partial run has all of these.
CHANGING = {"mkdirat", "linkat", "renameat2", "unlinkat", "fsync", "ftruncate", "copy_file_range", "pwrite64",
            "sendto", "fchmod", "utimensat", "fsetxattr", "writev"}
STEP = 9  # of the other calls, a partial run takes every ninth


def chosen(cases, full):
    if full:
        return cases
    others = [c for c in cases if c.call not in CHANGING]
    return [c for c in cases if c.call in CHANGING] + others[::STEP]


@pytest.mark.parametrize("name", ["copy", "link", "holes", "post", "update"])
def test_killed_at_every_call(lanes, name, full, table):
    if name == "holes" and not full:
        pytest.skip("only in the full run")
    counts, varying = counts_of(lanes, name)
    cases = [Case(name, call, n, "signal=KILL") for call in sorted(counts) for n in range(1, counts[call] + 1)]
    table.append(f"{name}: {sum(counts.values())} calls; by timing sometimes more: {dict(varying)}")
    run_all(lanes, chosen(cases, full), table, f"{name}, killed at")


# What each call may answer, beside EIO. What strace cannot do is an honest short count: it skips the call.
ERRORS = {
    "open": "EMFILE EINTR EACCES", "openat": "EMFILE EINTR EACCES ENOSPC EOPNOTSUPP", "close": "EINTR EDQUOT",
    "fstat": "ENOMEM", "newfstatat": "ENOMEM EACCES", "fcntl": "EAGAIN EINVAL", "flock": "EAGAIN EINTR ENOLCK",
    "mkdirat": "ENOSPC EDQUOT EROFS EACCES", "fchown": "EPERM EINTR", "fchmod": "EPERM EINTR",
    "fsync": "ENOSPC EDQUOT EINTR EROFS", "fstatfs": "ENOSYS EINTR", "fallocate": "ENOSPC EDQUOT EOPNOTSUPP EINTR EFBIG",
    "fadvise64": "EINVAL", "ioctl": "ENOTTY EXDEV EINVAL", "sync_file_range": "ENOSPC",
    "copy_file_range": "EXDEV EINTR ENOSYS EOPNOTSUPP EINVAL EPERM EBADF ETXTBSY ENOSPC EDQUOT EFBIG ENOMEM =0",
    "pread64": "EINTR ENOMEM =0", "pwrite64": "EINTR ENOSPC EDQUOT EFBIG =0", "lseek": "EINVAL ENXIO",
    "ftruncate": "ENOSPC EINTR EFBIG", "flistxattr": "EOPNOTSUPP ERANGE", "fgetxattr": "ENODATA ERANGE",
    "fsetxattr": "ENOSPC EDQUOT EPERM EOPNOTSUPP", "utimensat": "EPERM",
    "linkat": "ENOSPC EDQUOT EXDEV EPERM EMLINK ENOENT EINVAL EROFS EINTR", "renameat2": "EINVAL ENOSYS ENOSPC EROFS EINTR",
    "unlinkat": "EBUSY EROFS EPERM EINTR", "write": "EAGAIN ENOSPC EPIPE EINTR",
    "mmap": "ENOMEM", "socket": "EMFILE", "connect": "ECONNREFUSED EINTR", "sendto": "EPIPE ECONNRESET EINTR",
    "recvfrom": "ECONNRESET EINTR =0", "poll": "EINTR ENOMEM", "ppoll": "EINTR ENOMEM", "getsockopt": "ENOMEM",
    "setsockopt": "ENOMEM",
}
NO_EIO = {"mmap", "socket", "connect", "sendto", "recvfrom", "poll", "ppoll", "getsockopt", "setsockopt"}


def faults_of(call):
    words = ([] if call in NO_EIO else ["EIO"]) + ERRORS.get(call, "").split()
    return [f"retval={w[1:]}" if w.startswith("=") else f"error={w}" for w in words]


@pytest.mark.parametrize("name", ["copy", "link", "holes"])
def test_an_error_at_every_call(lanes, name, full, table):
    """One error, once: the move is made in the end, or the job says why not; nothing is lost meanwhile."""
    if name == "holes" and not full:
        pytest.skip("only in the full run")
    counts, _ = counts_of(lanes, name)
    calls = [(call, n) for call in sorted(ERRORS) for n in range(1, counts[call] + 1)]
    cases = [Case(name, call, n, fault) for call, n in calls for fault in faults_of(call)]
    if not full:
        cases = [c for i, c in enumerate(c for c in cases if c.call in CHANGING) if i % 3 == 0]
    run_all(lanes, cases, table, f"{name}, an error at")
