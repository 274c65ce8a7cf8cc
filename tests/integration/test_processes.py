"""Options, signals, servers that go away: CONTRACT.md, section 1."""
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import Site, free_port, wait_until
from harness.servers import TIERD, Redis, freeze, frozen, thaw
from wire import Wire, post


def run(*args, env=None):
    return subprocess.run([TIERD, *args], capture_output=True, text=True, timeout=10, check=False,
                          env={**os.environ, **(env or {})})


def test_version_names_what_is_linked():
    out = run("--version").stdout
    assert re.match(r"tierd \d+\.\d+\.\d+ \(\S+\)\n", out)
    for part in ("libc", "hiredis", "Connector/C", "OpenSSL", "yyjson"):
        assert part in out


def test_help_lists_every_option():
    out = run("--help").stdout
    for name in ("role", "listen", "redis", "db", "api", "workers", "api-workers", "root", "lease", "log-level",
                 "log-format", "redis-password-file", "db-password-file", "drain-timeout", "done-ttl"):
        assert f"--{name} " in out


@pytest.mark.parametrize("args,named", [
    (["--nonsense=1"], ["--nonsense"]), (["worker"], ["'worker'"]), ([], ["--role", "api, worker or all"]),
    (["--role=boss"], ["--role", "boss", "api, worker or all"]), (["--role=worker"], ["--root"]),
    (["--role=api", "--workers=0"], ["--workers", "'0'", "from 1 to"]),
    (["--role=api", "--lease=soon"], ["--lease", "soon", "30s"]),
    (["--role=api", "--listen=nowhere"], ["--listen", "nowhere", "ADDR:PORT"]),
    (["--role=api", "--redis=http://x"], ["--redis", "http://x", "redis://"]),
    (["--role=api", "--db=mysql://u@h"], ["--db", "names no database"]),
    (["--role=api", "--log-level=loud"], ["--log-level", "loud", "debug"]),
    (["--role"], ["--role", "needs a value"]),
    (["--role=api", "--redis=redis://u:secret@h/1"], ["--redis", "password"]),
    (["--role=worker", "--root=relative"], ["--root", "relative", "absolute"]),
])
def test_bad_options(args, named):
    result = run(*args)
    assert result.returncode == 64
    for word in named:
        assert word in result.stderr
    assert "secret" not in result.stderr


def without_sigchld():
    """As whoever starts it may have it: its children end unseen."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def test_started_by_who_ignores_its_children(site):
    """That is inherited: a child that dies is started again all the same, and a level that answers does not hang."""
    site.sample()
    api = site.start("--role=api", "--listen=127.0.0.1:0", "--api-workers=1", *site.common(), enter=without_sigchld)
    os.kill(api.children()[0], signal.SIGKILL)
    api.wait_line("a child died and is started again")
    result = subprocess.run([TIERD, "check", *[f"--root={r}" for r in site.roots], *site.common()], capture_output=True,
                            text=True, check=False, timeout=60, preexec_fn=without_sigchld)
    assert result.returncode == 0 and "does not answer" not in result.stderr, result.stderr


def test_a_root_that_is_not_there_is_refused(site, tmp_path):
    (tmp_path / "file").write_text("")
    conf = tmp_path / "tierd.conf"
    conf.write_text(f"role = worker\nroot = {tmp_path / 'gone'}\n")
    for args, named in [([f"--root={site.folder}", f"--root={tmp_path / 'gone'}"], "--root"), ([f"--root={tmp_path / 'file'}"], "--root"),
                        ([f"--config={conf}"], f"{conf}:2")]:
        result = run("--role=worker", *args, *site.common())
        assert result.returncode == 78 and named in result.stderr and "is not a directory" in result.stderr
        assert "ready" not in result.stderr


def test_bad_file(tmp_path):
    path = tmp_path / "tierd.conf"
    path.write_text("# fine\nlease = 10s\nworkerz = 3\n")
    result = run("--role=api", f"--config={path}")
    assert result.returncode == 78 and f"{path}:3" in result.stderr and "workerz" in result.stderr
    assert run("--role=api", "--config=/nowhere").returncode == 78


WRONG = [("redis", "redis://h/one", "not a number"), ("db", "mysql://u@h", "names no database"),
         ("api", "ftp://h", "http+unix://"), ("demote-margin", "much", "such as 10%"), ("max-use", "gold=", "gold=80%"),
         ("listen", "nowhere", "ADDR:PORT"), ("lease", "soon", "30s"), ("redis-password-file", "/nowhere", "No such file"),
         ("db-password-file", "/nowhere", "No such file")]


@pytest.mark.parametrize("name,value,allowed", WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_value_is_said_to_be_where_it_stands(tmp_path, name, value, allowed):
    """Each option, from each source: the sentence names the place, the status its kind; the stronger source wins."""
    path = tmp_path / "tierd.conf"
    path.write_text(f"# a comment\n{name} = {value}\n")
    variable = "TIERD_" + name.upper().replace("-", "_")
    line = f"tierd: {path}:2: {name}: "
    unreadable = 78 if name.endswith("-file") else 64  # the value may be right, its file is not
    for place, status, args, env in [
            (line, 78, [f"--config={path}"], {}),
            (f"tierd: {variable}: ", unreadable, [], {variable: value}),
            (f"tierd: --{name}: ", unreadable, [f"--{name}={value}"], {}),
            (f"tierd: --{name}: ", unreadable, [f"--config={path}", f"--{name}={value}"], {variable: value})]:
        result = run("--role=api", *args, env=env)
        # what the file holds is looked at before what stands above it
        if name == "lease" and "--config" in str(args):
            place, status = line, 78
        assert result.returncode == status, result.stderr
        assert result.stderr.startswith(place) and value in result.stderr and allowed in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_refused_url_does_not_show_its_password(tmp_path):
    path = tmp_path / "tierd.conf"
    path.write_text("redis = rediss://u:s3cret@h:port/1\n")
    result = run("--role=api", f"--config={path}")
    assert result.returncode == 78 and "u:***@h" in result.stderr and "s3cret" not in result.stderr
    result = run("--role=api", env={"TIERD_DB": "mysql://u:s3cret@h/"})
    assert result.returncode == 64 and "s3cret" not in result.stderr


def test_flags_beat_environment_beats_file(site, tmp_path):
    path = tmp_path / "tierd.conf"
    path.write_text("listen = 127.0.0.1:1\nworkers = 3\nlog-format = json\nlog-level = debug\n")
    process = site.start("--role=worker", f"--config={path}", f"--root={site.folder}", "--log-level=info",
                         *site.common(), env={"TIERD_LOG_FORMAT": "text", "TIERD_WORKERS": "4"}, wait=False)
    assert process.wait_line("^ready ") == "ready role=worker workers=4"
    result = run("--role=api", env={"TIERD_WORKERS": "many"})
    assert result.returncode == 64 and "TIERD_WORKERS" in result.stderr


def test_json_log(site):
    process = site.start("--role=api", "--listen=127.0.0.1:0", "--log-format=json", *site.common(), wait=False)
    ready = json.loads(process.wait_line('"ready"'))
    assert ready["msg"] == "ready" and ready["role"] == "api"
    for line in process.lines:
        json.loads(line)


def test_unix_sockets_and_role_all(site, tmp_path):
    site.sample()
    path = tmp_path / "api.sock"
    process = site.start("--role=all", f"--listen=unix:{path}", "--workers=2", "--api-workers=2",
                         f"--root={site.folder}", *site.common())
    assert f"ready role=api listen=unix:{path}" in process.lines
    out = subprocess.run(["curl", "-s", "--unix-socket", path, "http://x/post_sentence", "-d", "cid=7&count=1964"],
                         capture_output=True, text=True, check=True).stdout
    assert json.loads(out)["target"] == "silver"
    site.wait_moved(7, "g.mp4", "silver")
    assert process.stop() == 0 and not path.exists()


def test_api_workers_share_the_port(site):
    site.sample()
    site.start_api("--api-workers=3")
    children = site.api.children()
    assert len(children) == 3

    def sockets():
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in children}
    before = sockets()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(site.api)) for _ in range(60)]
        assert [w.ask(post()).status for w in wires] == [200] * 60
        after = sockets()
        assert all(after[pid] >= before[pid] + 5 for pid in children)  # each has some of them


def test_port_in_use(site):
    site.start_api()
    result = run("--role=api", f"--listen={site.api.address}")
    assert result.returncode == 71 and "in use" in result.stderr


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_drain(site, sig):
    site.sample()
    worker = site.both()
    for process in (worker, site.api):
        children = process.children()
        assert children and process.stop(sig) == 0
        for pid in children:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_a_move_longer_than_the_drain_is_abandoned(two_fs):
    """Within the time-out, with nothing to be found out later: the job is free at once, nothing counted against it."""
    site = two_fs
    data = os.urandom(2**20) * 32
    site.add(1, "big.bin", "bronze", data)
    site.start_api()
    worker = site.start_worker("--bandwidth=4M", "--drain-timeout=1s", workers=1)
    site.post(1, 5000)
    wait_until(lambda: int((site.redis.cli("HGET", "tierd:progress", "1") or "0").split()[0]) > 0, what="it is copying")
    started = time.monotonic()
    assert worker.stop() == 0 and time.monotonic() - started < 1
    assert worker.count("abandoned, stopping") == 1 and worker.count("drain time-out is over") == 0
    job = site.redis.cli("HGETALL", "tierd:job:1").split("\n")
    job = dict(zip(job[::2], job[1::2]))
    assert job["state"] == "queued" and not {"waits", "worker", "attempts", "crashes"} & set(job)
    assert site.redis.cli("EXISTS", "lock:1") == "0" and site.redis.cli("LLEN", "tierd:wake") == "1"
    assert site.level(1) == "bronze" and site.places("big.bin") == ["bronze"] and site.leftovers() == []
    site.start_worker(workers=1)
    site.wait_moved(1, "big.bin", "gold")
    assert (site.paths["gold"] / "big.bin").read_bytes() == data


def test_no_orphans_when_the_supervisor_is_killed(site):
    worker = site.both()
    for process in (worker, site.api):
        children = process.children()
        process.process.kill()
        def gone():
            return all(not os.path.exists(f"/proc/{pid}") for pid in children)
        wait_until(gone, what="children end with their supervisor")


def test_a_dead_child_is_started_again(site):
    site.sample()
    worker = site.both()
    for process in (worker, site.api):
        victim = process.children()[0]
        os.kill(victim, signal.SIGKILL)
        process.wait_line(rf"a child died.*pid={victim}")
        wait_until(lambda p=process, v=victim: p.children() and v not in p.children(), what="a new child")
    wait_until(lambda: site.request("GET", "/health").status == 200, what="health")
    site.post(4, 2500)
    site.wait_moved(4, "d.mp4", "gold")


def test_ready_counts_children_not_starts(own_site):
    """One that dies and is back while another still starts does not stand for both."""
    site = own_site
    site.start_api()

    def working(child):
        return any(f".{child}." in name for name in site.redis.cli("HKEYS", "tierd:workers").split())

    def die(child):
        os.kill(child, signal.SIGKILL)
        worker.wait_line(rf"a child died.*pid={child} ")
        wait_until(lambda: len(worker.children()) == 2, what="a new child")
        return next(c for c in worker.children() if c not in (child, slow))

    roots = [f"--root={r}" for r in site.roots]
    with frozen(site.redis.process.pid):
        worker = site.start("--role=worker", f"--api=http://{site.api.address}", "--workers=2", *roots, *site.common(),
                            wait=False)
        wait_until(lambda: len(worker.children()) == 2, what="both children")
        fast, slow = worker.children()
        freeze(slow)
    try:
        for _ in range(2):
            wait_until(lambda: working(fast), what="the first works")
            fast = die(fast)  # by this line the supervisor knows who was ready before
        assert worker.count("^ready ") == 0
    finally:
        thaw(slow)
    worker.wait_line("^ready role=worker workers=2")


def test_sighup_reads_levels_and_file_again(site, tmp_path):
    site.sample()
    path = tmp_path / "tierd.conf"
    path.write_text("log-level = info\n")
    site.start_api(f"--config={path}")
    site.db.sql("UPDATE level SET min_count = 1500 WHERE level = 'silver'")
    path.write_text("log-level = nonsense\n")
    site.api.process.send_signal(signal.SIGHUP)
    site.api.wait_line("the new settings are refused")
    path.write_text("log-level = debug\n")
    old = site.api.children()
    site.api.process.send_signal(signal.SIGHUP)
    wait_until(lambda: site.api.children() and not set(old) & set(site.api.children()), what="new children")
    assert json.loads(site.post(7, 1400).body)["target"] == "bronze"


def test_a_new_level_is_seen_without_a_restart(site):
    site.sample()
    site.start_api()
    site.db.sql(f"INSERT INTO level VALUES ('platinum', '{site.folder}/platinum', 9000)")
    wait_until(lambda: json.loads(site.post(7, 9999).body)["target"] == "platinum", what="the new level")


@pytest.mark.parametrize("part", ["redis", "db"])
def test_a_server_that_restarts(own_site, part):
    """503 quickly while it is away, then everything goes on by itself; nothing acknowledged is lost."""
    site = own_site
    site.sample()
    worker = site.both()
    server = getattr(site, part)
    assert site.post(4, 2500).status == 200
    site.wait_moved(4, "d.mp4", "gold")
    server.stop()
    wait_until(lambda: site.request("GET", "/health").status == 503, what="health says so")
    health = site.request("GET", "/health")
    assert json.loads(health.body)[part] == "down" and health.headers["Retry-After"]
    started = time.monotonic()
    answer = site.post(7, 1964)
    assert answer.status == 503 and answer.headers["Retry-After"] and time.monotonic() - started < 1
    server.start()
    wait_until(lambda: site.request("GET", "/health").status == 200, what="health is back")
    assert site.post(7, 1964).status == 200
    site.wait_moved(7, "g.mp4", "silver")
    assert worker.count("a child died") == 0


def ask_for(seconds, ask):
    """Asks again and again; the answers, and how long the slowest took."""
    answers, slowest, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        answers.append(ask())
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.05)  # the pace, nothing is waited for
    return answers, slowest


@pytest.mark.parametrize("part", ["redis", "db"])
def test_a_server_that_hangs(own_site, part):
    """Whoever asks beside whom, nobody waits longer than a second; /health names the server, and so does the log, once."""
    site = own_site
    site.sample()
    site.start_api()
    posts, healths = 6, 2
    with frozen(getattr(site, part).process.pid), concurrent.futures.ThreadPoolExecutor(posts + healths) as threads:
        asked = [threads.submit(ask_for, 3, lambda cid=cid: site.post(cid, 1964)) for cid in range(1, posts + 1)]
        asked += [threads.submit(ask_for, 3, lambda: site.request("GET", "/health")) for _ in range(healths)]
        results = [a.result() for a in asked]
    says = {"status": "down", "redis": "ok", "db": "ok", part: "down"}
    for answers, slowest in results:
        assert {a.status for a in answers} == {503} and slowest < 1.2
    for answers, _ in results[posts:]:
        assert all(json.loads(a.body) == says and a.headers["Retry-After"] for a in answers)
    wait_until(lambda: site.request("GET", "/health").status == 200, what="health is back")
    assert site.post(7, 1964).status == 200
    assert site.api.count(r"(redis|database) is away") == 1
    assert site.api.count(r"(redis|database) is connected") == 3


def test_a_database_connection_that_ends_is_no_news(site):
    """The server ends one that was idle for long; the others serve, and it is opened again."""
    site.sample()
    site.start_api()
    def connections():
        return {i for i, in site.db.sql("SELECT id FROM information_schema.processlist WHERE command = 'Sleep' AND db = 'tierd'")}
    wait_until(lambda: len(connections()) == 5, what="all connections stand")
    before = connections()
    for one in sorted(before)[:4]:
        site.db.sql(f"KILL {one}")
    wait_until(lambda: len(connections()) == 5 and len(connections() & before) == 1, what="they are opened again")
    assert site.post(7, 1964).status == 200
    assert site.api.count("database is away") == 0


def test_start_without_servers(site):
    """The API serves 503 and connects when they come; a worker waits."""
    site.start("--role=worker", f"--root={site.folder}", "--redis=unix:///nowhere?db=1", "--db=mysql://x@localhost/t?socket=/no")
    site.api = site.start("--role=api", "--listen=127.0.0.1:0", "--redis=unix:///nowhere?db=1",
                          "--db=mysql://x@localhost/t?socket=/no")
    assert json.loads(site.request("GET", "/health").body) == {"status": "down", "redis": "down", "db": "down"}
    assert site.post(7, 1).status == 503


def test_moves_go_on_after_the_api_was_away(own_site):
    site = own_site
    site.sample()
    worker = site.both()
    address = site.api.address
    site.post(4, 2500)
    site.wait_moved(4, "d.mp4", "gold")
    freeze(site.api.process.pid)
    for pid in site.api.children():
        os.kill(pid, signal.SIGKILL)
    text = json.dumps({"cid": "7", "count": "1964", "target": "silver", "db_level": "bronze", "filename": "g.mp4",
                       "worker_id": None, "status": "update"})
    site.redis.cli("SET", "7", text)
    worker.wait_line(r"the API is away.*cid=7")
    assert site.level(7) == "bronze" and site.job(7)["status"] == "done"
    thaw(site.api.process.pid)
    site.wait_moved(7, "g.mp4", "silver")
    assert site.api.address == address


def test_redis_over_tls(servers, tmp_path):
    """rediss:// checks the authority and the name; workers and the API speak it."""
    _, db = servers
    for name, alt in (("good", "IP:127.0.0.1"), ("other", "DNS:elsewhere.example")):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
                        "-addext", f"subjectAltName={alt}", "-keyout", tmp_path / f"{name}.key",
                        "-out", tmp_path / f"{name}.pem"], check=True, capture_output=True)
    for name, trusted, works in (("good", "good", True), ("good", "other", False), ("other", "other", False)):
        port = free_port()
        for path in tmp_path.glob("*.key"):
            path.chmod(0o644)
        redis = Redis(tmp_path / f"redis-{name}-{trusted}", "--tls-port", str(port), "--tls-auth-clients", "no",
                      "--tls-cert-file", tmp_path / f"{name}.pem", "--tls-key-file", tmp_path / f"{name}.key",
                      "--tls-ca-cert-file", tmp_path / f"{name}.pem")
        site = Site(redis.start(), db, tmp_path / f"levels-{name}-{trusted}")
        try:
            site.sample()
            site.common = lambda port=port: [f"--redis=rediss://127.0.0.1:{port}/1", f"--db={db.url}"]
            env = {"SSL_CERT_FILE": str(tmp_path / f"{trusted}.pem"), "SSL_CERT_DIR": "/nowhere"}
            site.api = site.start("--role=api", "--listen=127.0.0.1:0", *site.common(), env=env)
            assert json.loads(site.request("GET", "/health").body)["redis"].startswith(
                "ok" if works else "cannot be trusted: its certificate is refused: ")
            if works:
                site.start("--role=worker", f"--api=http://{site.api.address}", f"--root={site.folder}",
                           *site.common(), env=env)
                site.post(4, 2500)
                site.wait_moved(4, "d.mp4", "gold")
        finally:
            site.close()
            redis.close()
