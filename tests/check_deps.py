"""Reads the #includes of src/ and refuses those that run against the house's one-way flow."""
import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parents[1] / "src"
MAY_USE = {
    "base": {"base"},
    "net": {"net", "base"},
    "store": {"store", "net", "base"},
    "fs": {"fs", "base"},
    "queue": {"queue", "base"},
    "job": {"job", "queue", "store", "net", "base"},
    "api": {"api", "queue", "job", "store", "net", "base"},
    "worker": {"worker", "queue", "job", "fs", "store", "net", "base"},
    "ops": {"ops", "queue", "job", "fs", "store", "net", "base"},
}
ONLY_BASE = {"worker/supervisor.c", "worker/supervisor.h"}
ONLY_IN = {"hiredis/": {"store/redis.c", "main.c"}, "mysql.h": {"store/db.c", "main.c"},
           "ares": {"net/resolve.c", "main.c"}}


def main():
    bad = []
    for path in sorted(SRC.rglob("*.[ch]")):
        name = str(path.relative_to(SRC))
        layer = name.split("/")[0]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'#include ([<"])([^>"]+)[>"]', line)
            if not found:
                continue
            kind, header = found.groups()
            where = f"src/{name}:{number}: {line.strip()}"
            for prefix, users in ONLY_IN.items():
                if header.startswith(prefix) and name not in users:
                    bad.append(f"{where}: only {' and '.join(sorted(users))} may")
            if kind != '"' or name == "main.c":
                continue
            target = header.split("/")[0]
            own = name in ONLY_BASE and header != name.replace(".c", ".h")
            if target not in MAY_USE.get(layer, set()) or (own and target != "base"):
                bad.append(f"{where}: {layer}/ may not use {target}/")
    print("\n".join(bad) if bad else "check-deps: main -> api | worker | ops -> job | fs -> store -> net -> base holds")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
