"""Runs unit tests, fuzzers, integration and fault tests; the last line is `N passed, N failed` over all of them."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[1]
UNIT_TIMEOUT_S = 300


def run_unit(folder):
    """Each program's TAP output, one line a test; a program that dies counts as one failure."""
    passed = failed = 0
    programs = sorted(p for p in pathlib.Path(folder).glob("test_*") if p.suffix == "")
    for program in programs:
        started = time.monotonic()
        try:
            result = subprocess.run([program], env={**os.environ, "CMOCKA_MESSAGE_OUTPUT": "TAP"}, text=True,
                                    capture_output=True, check=False, timeout=UNIT_TIMEOUT_S, errors="replace")
        except subprocess.TimeoutExpired:
            failed += 1
            print(f"{program.name:<28} hangs, ended after {UNIT_TIMEOUT_S} s", flush=True)
            continue
        output = result.stdout + result.stderr
        good = len(re.findall(r"^ok \d+", output, re.M))
        bad = len(re.findall(r"^not ok \d+", output, re.M))
        if result.returncode != 0 and bad == 0:
            bad = 1
        if good + bad == 0:
            bad = 1
            output += "\nno test was run"
        passed += good
        failed += bad
        print(f"{program.name:<28} {good:>4} passed {bad:>3} failed  {time.monotonic() - started:5.1f} s", flush=True)
        if bad:
            print(output, flush=True)
    if not programs:
        print("no unit tests were built")
        failed += 1
    return passed, failed


def run_fuzzers(folder, seconds):
    """All fuzzers side by side for some seconds, first over the corpus in the tree and over what they learned before. A
    finding fails; the input that shows it is kept."""
    findings = pathlib.Path(folder) / "findings"
    findings.mkdir(exist_ok=True)
    running = {}
    for program in sorted(p for p in pathlib.Path(folder).glob("fuzz_*") if p.suffix == ""):
        name = program.name.removeprefix("fuzz_")
        learned = pathlib.Path(folder) / "corpus" / name
        learned.mkdir(parents=True, exist_ok=True)
        seeds = ROOT / "tests" / "fuzz" / "corpus" / name
        log = open(findings / f"{name}.log", "w+", encoding="utf-8", errors="replace")
        running[name] = log, subprocess.Popen(
            [program, f"-max_total_time={seconds}", "-timeout=600", "-report_slow_units=600", "-print_final_stats=1",
             "-close_fd_mask=3", f"-artifact_prefix={findings}/{name}-", learned, *([seeds] if seeds.is_dir() else [])],
            stdout=log, stderr=log)
    passed = failed = 0
    for name, (log, process) in running.items():
        status = process.wait()
        log.seek(0)
        output = log.read()
        log.close()
        runs = re.search(r"number_of_executed_units: (\d+)", output)
        good = status == 0 and runs and int(runs[1]) > 0
        passed, failed = (passed + 1, failed) if good else (passed, failed + 1)
        print(f"fuzz_{name:<23} {'no finding' if good else 'FINDING':>10} in {seconds} s, {runs[1] if runs else 0} runs",
              flush=True)
        if not good:
            print(output[-6000:], flush=True)
    if not running:
        print("no fuzzers were built")
        failed += 1
    return passed, failed


def args_choose(args):
    return any(a.startswith(("-k", "-m")) for a in args)


def run_pytest(part, args):
    """The tests of one folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        status = subprocess.run([sys.executable, "-m", "pytest", "-q", "--durations=5", f"--junitxml={report}",
                                 ROOT / "tests" / part, *args], cwd=ROOT, check=False).returncode
        if not report.exists():
            return 0, 1
        suite = xml.parse(report).getroot().find("testsuite")
        total, bad, skipped = (int(suite.get(k)) for k in ("tests", "failures", "skipped"))
        bad += int(suite.get("errors"))
        if status == 5 and args_choose(args):  # PYTEST_ARGS chose tests of the other parts alone
            return 0, 0
        if status not in (0, 1) or total == 0:
            bad += 1
        return total - bad - skipped if total > bad + skipped else 0, bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--unit", metavar="FOLDER")
    parser.add_argument("--fuzz", metavar="FOLDER")
    parser.add_argument("--fuzz-seconds", type=int, default=3)
    parser.add_argument("--integration", action="store_true")
    parser.add_argument("--faults", choices=("part", "full"))
    args, rest = parser.parse_known_args()
    passed = failed = 0
    if args.unit:
        passed, failed = run_unit(args.unit)
    if args.fuzz:
        good, bad = run_fuzzers(args.fuzz, args.fuzz_seconds)
        passed += good
        failed += bad
    parts = [("integration", ["--faults=part"])] if args.integration else []
    parts += [(part, [f"--faults={args.faults}"]) for part in ("town", "faults")] if args.faults else []
    for part, options in parts:
        good, bad = run_pytest(part, [*options, *rest])
        passed += good
        failed += bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
