"""Honest short counts in one process of ours: see tests/faults/shorten.c, which `make` builds.

    with Shorten(pid, "pread64", "half", 2) as short: ...     the second read gets half of what it asked for
"""
import platform
import signal

from harness.servers import ROOT
from harness.strace import Tracer, available as may_trace

PROGRAM = ROOT / "build" / "faults" / "shorten"


def available():
    """None, or why it cannot be used here."""
    if platform.machine() != "x86_64":
        return "shorten.c knows the registers of x86-64 only"
    return may_trace()


class Shorten(Tracer):
    name = "shorten"
    ends_by = signal.SIGTERM

    def __init__(self, pid, call, how, which):
        super().__init__(pid, lambda out: [PROGRAM, str(pid), call, how, str(which), out])

    def _attached(self):
        return bool(self.lines())

    def short(self):
        """How many calls transferred less than they asked for, because of us."""
        counts = [tuple(map(int, line.split())) for line in self.lines()[1:]]
        return sum(1 for asked, let, got in counts if got == let < asked)
