"""`make bench BENCH=sweep`: posts a second and latency against the number of connections, as a table and as a plot
(build/bench/sweep.svg)."""
import matplotlib

from lab import OUT, PEERS, ROUNDS, Lab, Report, Wrk, median, warm

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

CONNECTIONS = (1, 8, 64, 256)


def measure(lab):
    """{server: {connections: [runs]}}, the servers taking turns."""
    runs = {name: {c: [] for c in CONNECTIONS} for name in PEERS}
    for _ in range(ROUNDS):
        for name in PEERS:
            with lab.serving(name) as peer:
                warm(peer)
                for c in CONNECTIONS:
                    runs[name][c].append(Wrk(peer, connections=c))
    return runs


def middle(runs, name, key):
    return [median([getattr(r, key) for r in runs[name][c]]) for c in CONNECTIONS]


def table(report, runs):
    report.line(f"{'server':<8} {'connections':>11} {'posts/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}")
    for name in PEERS:
        for c, rate, p50, p99 in zip(CONNECTIONS, *(middle(runs, name, k) for k in ("rate", "p50_us", "p99_us"))):
            errors = sum(r.errors for r in runs[name][c])
            report.line(f"{name:<8} {c:>11} {rate:>9.0f} {p50 / 1e3:>8.2f} {p99 / 1e3:>8.2f} {errors:>7}")


def plot(runs, path):
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for name in PEERS:
        line, = left.plot(CONNECTIONS, middle(runs, name, "rate"), marker="o", label=name)
        for key, style in (("p50_us", "-"), ("p99_us", "--")):
            right.plot(CONNECTIONS, [v / 1e3 for v in middle(runs, name, key)], style, marker="o", color=line.get_color(),
                       label=f"{name} {key[:3]}")
    for axes, title in ((left, "posts per second"), (right, "latency in ms")):
        axes.set(xscale="log", yscale="log", xlabel="connections", title=title)
        axes.set_xticks(CONNECTIONS, [str(c) for c in CONNECTIONS])
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


def main():
    report = Report("sweep")
    with Lab() as lab:
        runs = measure(lab)
    table(report, runs)
    plot(runs, OUT / "sweep.svg")
    report.line(f"plot: {(OUT / 'sweep.svg').relative_to(OUT.parents[1])}")


if __name__ == "__main__":
    main()
