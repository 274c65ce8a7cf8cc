"""`make bench BENCH=perf`: where the processor time of a post goes, in the API, in Redis and in MariaDB, by perf(1)
under `wrk -t1 -c64`: the functions by themselves, and the system calls and what they stand in with their callees."""
import re
import subprocess

from lab import OUT, Lab, Report, Wrk, warm

LINES = 18
SECONDS = 3


def record(pid, data):
    return subprocess.Popen(["perf", "record", "-F", "997", "-e", "cpu-clock", "-g", "-o", data, "-p", str(pid), "--",
                             "sleep", str(SECONDS)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def top(data, mode):
    """The first lines of perf's table: percent, symbol."""
    text = subprocess.run(["perf", "report", "-i", data, "--stdio", mode, "-g", "none", "--percent-limit", "0.8"],
                          text=True, capture_output=True, check=False).stdout
    rows = []
    for line in text.splitlines():
        found = re.match(r"\s+([\d.]+)%\s+(?:([\d.]+)%\s+)?\S+\s+(\S+)\s+\[[.k]\] (.*\S)", line)
        if found and not found.group(4).startswith("0x"):
            rows.append((float(found.group(1)), found.group(4), found.group(3)))
    return rows


def show(report, part, data):
    alone = top(data, "--no-children")
    calls = [r for r in top(data, "--children") if r[1].startswith(("__x64_sys_", "asm_exc_"))]
    report.line()
    report.line(f"{part}: by function")
    for percent, symbol, where in alone[:LINES]:
        report.line(f"  {percent:5.1f} %  {symbol}  ({where})")
    report.line(f"{part}: in the kernel, by entry, callees included")
    for percent, symbol, _ in calls[:LINES]:
        report.line(f"  {percent:5.1f} %  {symbol}")


def main():
    report = Report("perf")
    with Lab() as lab, lab.serving("tierd") as peer:
        warm(peer)
        for part, pids in lab.pids(peer).items():
            data = OUT / f"perf-{part}.data"
            recorder = record(pids[0], data)
            run = Wrk(peer, seconds=SECONDS)
            recorder.wait()
            report.line(f"{part}: recorded at {run.rate:.0f} posts/s")
            show(report, part, data)


if __name__ == "__main__":
    main()
