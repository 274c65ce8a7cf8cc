"""`make bench BENCH=api`: POST /post_sentence of tierd beside nginx (a fixed answer), webdis (HTTP to Redis alone)
and the same endpoint in Flask. The servers take turns, round after round, so that whatever else the machine does
falls on all of them; medians over the rounds, ratios within a round."""
from lab import CONTENTS, COUNT_MAX, CORES, ROUND_SECONDS, ROUNDS, PEERS, Lab, Paced, Report, Wrk, median, warm


def one_round(lab):
    found = {}
    for name in PEERS:
        with lab.serving(name) as peer:
            warm(peer)  # warm
            found[name] = Wrk(peer)
    with lab.serving("tierd") as peer:
        warm(peer, settled=True)
        found["settled"] = Wrk(peer, settled=True)
    return found


def compare(lab, report):
    rounds = [one_round(lab) for _ in range(ROUNDS)]
    report.line(f"{'server':<8} {'posts/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}   tierd is ... times this")
    for name in (*PEERS, "settled"):
        runs = [r[name] for r in rounds]
        ratios = [r["tierd"].rate / r[name].rate for r in rounds]
        report.line(f"{name:<8} {median([r.rate for r in runs]):>9.0f} {median([r.p50_us for r in runs]) / 1e3:>8.2f} "
                    f"{median([r.p99_us for r in runs]) / 1e3:>8.2f} {sum(r.errors for r in runs):>7}   "
                    f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    report.line("settled: tierd, when every content is where its count wants it (the rest: two posts of three want a "
                "move)")
    return {name: median([r[name].rate for r in rounds]) for name in PEERS}


def half_load(lab, report, rates):
    report.line()
    report.line("At half of that rate, open loop, 64 connections:")
    report.line(f"{'server':<8} {'posts/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'p99.9':>8} {'max ms':>8} {'errors':>7}")
    for name in ("tierd", "nginx"):
        runs = []
        for _ in range(ROUNDS):
            with lab.serving(name) as peer:
                warm(peer)
                runs.append(Paced(peer, rates[name] / 2))
        cells = [median([getattr(r, k) for r in runs]) / 1e3 for k in ("p50_us", "p99_us", "p999_us", "max_us")]
        report.line(f"{name:<8} {rates[name] / 2:>9.0f} " + " ".join(f"{c:>8.2f}" for c in cells)
                    + f" {sum(r.errors for r in runs):>7}")


def main():
    report = Report("api")
    report.line(f"wrk -t1 -c64 on {CORES} cores with everything on them; {CONTENTS} contents, counts 0 to {COUNT_MAX}; "
                f"{ROUNDS} rounds of {ROUND_SECONDS} s, medians")
    with Lab() as lab:
        half_load(lab, report, compare(lab, report))


if __name__ == "__main__":
    main()
