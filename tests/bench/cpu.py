"""`make bench BENCH=cpu`: processor time per post by role, under the load of `wrk -t1 -c64` and at half of it, and
the memory of an API process that is idle."""
import time

from lab import PEERS, ROUND_SECONDS, ROUNDS, Lab, Paced, Report, Wrk, cpu_s, median, rss_kib, warm

PARTS = ("server", "redis", "mariadb", "wrk")


def per_post(lab, report):
    report.line("Microseconds of processor time per post:")
    report.line(f"{'server':<8} {'posts/s':>9} " + " ".join(f"{p:>8}" for p in PARTS) + f" {'sum':>8}")
    runs = {name: [] for name in PEERS}
    for _ in range(ROUNDS):
        for name in PEERS:
            with lab.serving(name) as peer:
                warm(peer)
                runs[name].append(Wrk(peer, watched=lab.pids(peer)))
    for name, found in runs.items():
        cells = [median([r.cpu_us[p] for r in found]) for p in PARTS]
        report.line(f"{name:<8} {median([r.rate for r in found]):>9.0f} " + " ".join(f"{c:>8.1f}" for c in cells)
                    + f" {sum(cells):>8.1f}")
    return median([r.rate for r in runs["tierd"]])


def at_half_load(lab, report, rate):
    report.line()
    with lab.serving("tierd") as peer:
        pids = lab.pids(peer)
        before = {part: cpu_s(*p) for part, p in pids.items()}
        run = Paced(peer, rate / 2)
        posts = run.rate * ROUND_SECONDS
        report.line(f"tierd at half of that, {run.rate:.0f} posts/s: " + ", ".join(
            f"{part} {(cpu_s(*p) - before[part]) / posts * 1e6:.1f}" for part, p in pids.items()))


def idle(lab, report):
    with lab.serving("tierd") as peer:
        fresh = rss_kib(peer.pids[0])
        Wrk(peer)
        used = rss_kib(peer.pids[0])
        before, started = cpu_s(*peer.pids), time.monotonic()
        time.sleep(5)
        share = (cpu_s(*peer.pids) - before) / (time.monotonic() - started)
        report.line(f"tierd API process: RSS {fresh} KiB idle, {used} KiB after the load; idle CPU {share:.1%}")


def main():
    report = Report("cpu")
    with Lab() as lab:
        at_half_load(lab, report, per_post(lab, report))
        idle(lab, report)


if __name__ == "__main__":
    main()
