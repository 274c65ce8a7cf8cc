"""What befalls Redis and MariaDB in `make test-chaos`.

An outage is a list of steps (when in seconds, what is counted, what is done): troubles of one server, or of both and then
at once, so that one is away, or starts, while the other is. A trouble is over with its last step; a server that was
started there may need some time to answer.
"""
import functools
import signal

from harness.servers import Failed

BOTH = 0.4                       # of the outages are of both servers
LEAST_S, MOST_S = 0.1, 10.0      # of a trouble; half of them last less than 0.32 s, one in ten more than 4 s
NOBODY = ("127.0.0.1", "1")      # where no Redis listens, to be a replica of
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


def length(rng):
    return LEAST_S * (MOST_S / LEAST_S) ** (rng.random() ** 2)


def order(redis, *words):
    """A trouble that does not take place, or does not end, is no outage."""
    if (said := redis.cli(*words)) != "OK":
        raise Failed(f"redis answers {said!r} to {' '.join(words)}")


def launch(server, *args):
    plain, server.args = server.args, (*server.args, *args)
    try:
        server.launch()
    finally:
        server.args = plain


def away(server, name, rng, at):
    """It ends, in order or not, and is started again."""
    sig = rng.choice(SIGNALS)
    back = at + length(rng)
    how = "killed" if sig == signal.SIGKILL else "ended"
    return [(at, f"{name} is {how}", functools.partial(server.stop, sig)),
            (back, f"{name} starts", functools.partial(launch, server))]


# ---- Redis ----

def master(redis):
    redis.wait()
    order(redis, "REPLICAOF", "NO", "ONE")


def starts_as_replica(redis, rng, at):
    """As after a fail-over: it is there, and for a while it takes no writes."""
    (_, *ends), (back, *_) = away(redis, "redis", rng, at)
    return [(at, *ends), (back, "redis starts as a replica", functools.partial(launch, redis, "--replicaof", *NOBODY)),
            (back + length(rng), "redis becomes the master", functools.partial(master, redis))]


def for_a_while(what, begin, end, rng, at):
    return [(at, what, begin), (at + length(rng), None, end)]


def replica(redis, rng, at):
    return for_a_while("redis is a replica (READONLY)", functools.partial(order, redis, "REPLICAOF", *NOBODY),
                       functools.partial(master, redis), rng, at)


def setting(redis, what, name, value, rng, at):
    return for_a_while(what, functools.partial(order, redis, "CONFIG", "SET", name, value),
                       functools.partial(order, redis, "CONFIG", "SET", name, "0"), rng, at)


def full(redis, rng, at):
    return setting(redis, "redis is full (OOM)", "maxmemory", "1", rng, at)


def alone(redis, rng, at):
    return setting(redis, "redis lacks replicas (NOREPLICAS)", "min-replicas-to-write", "1", rng, at)


def cannot_save(redis, rng, at):
    in_the_way = redis.data / "dump.rdb"

    def begin():
        in_the_way.mkdir()
        order(redis, "CONFIG", "SET", "save", "3600 1000000")
        redis.cli("BGSAVE")

    def end():
        order(redis, "CONFIG", "SET", "save", "")
        in_the_way.rmdir()
    return for_a_while("redis cannot save (MISCONF)", begin, end, rng, at)


# ---- MariaDB ----

def writable(db, yes):
    db.wait()
    db.sql(f"SET GLOBAL read_only = {int(not yes)}")


def starts_read_only(db, rng, at):
    (_, *ends), (back, *_) = away(db, "mariadb", rng, at)
    return [(at, *ends), (back, "mariadb starts read-only", functools.partial(launch, db, "--read-only=1")),
            (back + length(rng), "mariadb takes writes", functools.partial(writable, db, True))]


def read_only(db, rng, at):
    return for_a_while("mariadb is read-only", functools.partial(writable, db, False),
                       functools.partial(writable, db, True), rng, at)


# ---- the plan ----

def of_redis(redis, rng, at):
    kinds = [(8, functools.partial(away, redis, "redis")), (2, functools.partial(starts_as_replica, redis)),
             *[(1, functools.partial(kind, redis)) for kind in (replica, full, alone, cannot_save)]]
    return pick(kinds, rng)(rng, at)


def of_mariadb(db, rng, at):
    kinds = [(8, functools.partial(away, db, "mariadb")), (2, functools.partial(starts_read_only, db)),
             (2, functools.partial(read_only, db))]
    return pick(kinds, rng)(rng, at)


def pick(kinds, rng):
    weights, ways = zip(*kinds)
    return rng.choices(ways, weights)[0]


def plan(redis, db, rng):
    """The steps of an outage, not in order of time."""
    troubles = [functools.partial(of_redis, redis), functools.partial(of_mariadb, db)]
    rng.shuffle(troubles)
    steps = troubles[0](rng, 0)
    if rng.random() < BOTH:
        steps += troubles[1](rng, rng.uniform(0, steps[-1][0]))
    return steps
