"""Honest short counts in one process of ours: see tests/faults/shorten.c, which `make` builds.

    with Shorten(pid, "pread64", "half", 2) as short: ...     the second read gets half of what it asked for
"""
import pathlib
import platform
import shutil
import subprocess
import tempfile
import time

from harness.servers import ROOT, Failed, die_with_parent, tail
from harness.strace import ATTACH_TIMEOUT_S, available as may_trace

PROGRAM = ROOT / "build" / "faults" / "shorten"


def available():
    """None, or why it cannot be used here."""
    if platform.machine() != "x86_64":
        return "shorten.c knows the registers of x86-64 only"
    return may_trace()


class Shorten:
    """Attached to `pid` from the moment that the constructor returns."""

    def __init__(self, pid, call, how, which):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tierd-shorten."))
        self.out = self.folder / "calls"
        self.err = open(self.folder / "messages", "wb")
        self.process = subprocess.Popen([PROGRAM, str(pid), call, how, str(which), self.out], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=self.err, preexec_fn=die_with_parent(),
                                        start_new_session=True)
        deadline = time.monotonic() + ATTACH_TIMEOUT_S
        while not self._lines():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = tail(self.folder / "messages")
                self.close()
                raise Failed(f"shorten could not attach to {pid}: {text}")
            time.sleep(0.002)

    def _lines(self):
        try:
            return self.out.read_text(encoding="ascii").splitlines()
        except OSError:
            return []

    def short(self):
        """How many calls transferred less than they asked for, because of us."""
        counts = [tuple(map(int, line.split())) for line in self._lines()[1:]]
        return sum(1 for asked, let, got in counts if got == let < asked)

    def detach(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self):
        self.detach()
        self.err.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
