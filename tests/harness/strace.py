"""strace(1) on one process of ours: what it calls, and faults injected into single calls.

    with Strace(pid, "inject=fchmod:signal=STOP:when=1") as trace: ...

Counting (`when=N`) begins with the attachment and goes by the name of the call. An injected signal arrives when
the call is entered: KILL there means that the call was not made any more.
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

from harness.servers import Failed, die_with_parent, tail

ATTACH_TIMEOUT_S = 30
# A log line of ours: `fsync(5) = 0`, `fsync(5) = -1 EIO (Input/output error) (INJECTED)`.
CALL = re.compile(r"^(?:\[pid +\d+\] +)?(?P<name>[a-z_0-9]+)\((?P<rest>.*)$")


def available():
    """None, or why strace cannot be used here."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    if os.geteuid() != 0:
        scope = pathlib.Path("/proc/sys/kernel/yama/ptrace_scope")
        if scope.exists() and scope.read_text().strip() != "0":
            return "tracing a process that is not our child needs root here"
    return None


class Tracer:
    """A program that traces `pid` from the moment that the constructor returns, and writes to `out` what it sees."""

    name = None              # of the program
    ends_by = signal.SIGINT  # how it is told to let go

    def __init__(self, pid, words):
        """`words` is called with the path of `out`."""
        self.pid = pid
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"tierd-{self.name}."))
        self.out = self.folder / "calls"
        self.err = open(self.folder / "messages", "wb")
        self.process = subprocess.Popen(words(self.out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self.err, preexec_fn=die_with_parent(signal.SIGKILL), start_new_session=True)
        deadline = time.monotonic() + ATTACH_TIMEOUT_S
        while not self._attached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = tail(self.folder / "messages")
                self.close()
                raise Failed(f"{self.name} could not attach to {pid}: {text}")
            time.sleep(0.002)

    def _attached(self):
        raise NotImplementedError

    def lines(self):
        try:
            return self.out.read_text(errors="replace").splitlines()
        except OSError:
            return []

    def detach(self):
        """The process goes on untraced; what was written stays readable until close()."""
        if self.process.poll() is None:
            self.process.send_signal(self.ends_by)
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


class Strace(Tracer):
    name = "strace"

    def __init__(self, pid, *expressions, follow=False, path=None):
        """With `follow` all threads and what they start; with `path` only calls on that file."""
        self.follow = follow
        words = ["-q", "-s", "64", "-p", str(pid)]
        for expression in expressions:
            words += ["-e", expression]
        if follow:
            words.append("-f")
        if path:
            words += ["-P", str(path)]
        super().__init__(pid, lambda out: [self.name, *words, "-o", out])

    def _attached(self):
        threads = pathlib.Path(f"/proc/{self.pid}/task").glob("*" if self.follow else str(self.pid))
        tracers = {self._tracer(thread / "status") for thread in threads}
        if tracers == {self.process.pid}:
            return True
        # or the fault was at the call that was under way, and ended the process
        return self.process.poll() == 0 and bool(self.lines())

    @staticmethod
    def _tracer(path):
        try:
            return int(re.search(r"^TracerPid:\s+(\d+)", path.read_text(), re.M).group(1))
        except OSError:
            return -1

    def calls(self):
        """The calls that were made so far, as (name, rest of the line)."""
        return [(m["name"], m["rest"]) for m in map(CALL.match, self.lines()) if m]

    def held(self):
        """Whether an injected STOP holds the process (a ptrace stop alone looks alike in /proc)."""
        return any(line.startswith("--- stopped by SIGSTOP") for line in self.lines())

    def ended_well(self):
        """Whether the process, which has ended, exited with status 0."""
        self.process.wait(ATTACH_TIMEOUT_S)
        return any(line.startswith("+++ exited with 0") for line in self.lines())
