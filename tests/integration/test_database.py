"""The database as others have set it up: modes of its sessions, character sets of its tables, what it refuses."""
import contextlib
import json
import os
import re
import subprocess
import time

import pytest
from conftest import sha, wait_until
from harness.servers import ROOT, TIERD

@contextlib.contextmanager
def settings(db, **values):
    """Defaults of all new sessions, until the end. What the tests' own sessions need they set themselves."""
    before = {name: db.sql(f"SELECT @@GLOBAL.{name}")[0][0] for name in values}

    def put(all_of_them):
        db.sql("SET SESSION sql_mode = ''; " + "".join(
            f"SET GLOBAL {name} = {value if value.replace('.', '').isdigit() else repr(value)};"
            for name, value in all_of_them.items()))
    try:
        put({name: str(value) for name, value in values.items()})
        yield
    finally:
        put(before)


@contextlib.contextmanager
def user(site, name, rights="SELECT, UPDATE"):
    """A plain user, as init_connect and read_only are for; tierd is them until the end."""
    site.db.sql(f"CREATE USER {name}@localhost; GRANT {rights} ON tierd.* TO {name}@localhost")
    url = site.db.url.replace("mysql://root@", f"mysql://{name}@")
    site.common = lambda: [f"--redis={site.redis.url}", f"--db={url}"]
    try:
        yield
    finally:
        site.close()
        site.db.sql(f"DROP USER {name}@localhost")


@pytest.fixture
def columns(site):
    """Changes the tables' columns, and brings them back in the end."""
    def change(sql):
        site.db.sql("SET foreign_key_checks = 0; ALTER TABLE contents DROP FOREIGN KEY contents_level;" + sql)
    yield change
    site.close()
    site.db.sql("SET foreign_key_checks = 0; DROP TABLE contents, level")
    site.db.load("schema.sql")


def move(site, cid, name, to, count=5000):
    digest = sha(site.paths[site.level(cid)] / name)
    wait_until(lambda: site.post(cid, count).status == 200, what="the post is taken")
    site.wait_moved(cid, name, to)
    wait_until(lambda: site.redis.cli("EXISTS", f"tierd:job:{cid}") == "0", what="the end of the job")
    assert sha(site.paths[to] / name) == digest and site.job(cid)["status"] == "done"


# ---- modes of the sessions ----

MODES = {
    "autocommit off": {"autocommit": 0},
    "begins a transaction": {"init_connect": "SET completion_type = CHAIN; BEGIN; SET autocommit = 0"},
    "read only": {"tx_read_only": 1},
    "dirty reads": {"tx_isolation": "READ-UNCOMMITTED"},
    "empty is null": {"sql_mode": "EMPTY_STRING_IS_NULL"},
    "all modes": {"sql_mode": "ORACLE,ANSI,EMPTY_STRING_IS_NULL,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,TRADITIONAL,"
                              "SIMULTANEOUS_ASSIGNMENT,TIME_ROUND_FRACTIONAL,NO_UNSIGNED_SUBTRACTION,HIGH_NOT_PRECEDENCE"},
    "no modes": {"sql_mode": ""},
    "safe updates, few rows": {"sql_safe_updates": 1, "sql_big_selects": 0, "sql_select_limit": 1, "max_join_size": 1},
    "no time": {"init_connect": "SET max_statement_time = 0.0005"},
    "latin1": {"init_connect": "SET NAMES latin1"},
}


@pytest.mark.parametrize("modes", MODES.values(), ids=MODES.keys())
def test_modes_of_sessions_are_set(site, modes):
    """Whatever a session begins with: the move is committed, also of a row without a time and with a name of all letters."""
    name = "käse ☃ 😀 'x' \\n.mp4"
    site.db.sql("ALTER TABLE contents MODIFY update_time DATETIME(6) NULL DEFAULT NULL")
    try:
        for cid in (1, 2, 3):
            site.add(cid, f"{cid} {name}", "bronze", os.urandom(1000))
        assert site.db.sql("SELECT COUNT(*) FROM contents WHERE update_time IS NULL") == [["3"]]
        with user(site, "plain"), settings(site.db, **modes):
            site.both()
            for cid in (1, 2, 3):
                move(site, cid, f"{cid} {name}", "gold")
            site.db.sql("SELECT 1")
            roots = [f"--root={r}" for r in site.roots]
            found = subprocess.run([TIERD, "check", *roots, *site.common()], capture_output=True, text=True, check=False)
            assert found.stdout == "3 contents, 3 in order, 3 files, 0 findings; nothing was changed\n", found
        assert site.db.sql("SELECT COUNT(*) FROM contents WHERE update_time IS NULL") == [["0"]]
    finally:
        site.close()
        site.db.sql("DELETE FROM contents; ALTER TABLE contents MODIFY update_time DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)")


def test_every_connection_sets_its_modes(site):
    """Those of the API and those of workers and commands: one statement for all, seen in the server's own log."""
    site.db.sql("SET GLOBAL log_output = 'TABLE'; TRUNCATE mysql.general_log; SET GLOBAL general_log = 1")
    try:
        with user(site, "plain"):
            site.both()
            subprocess.run([TIERD, "explain", "1", *site.common()], capture_output=True, check=False)
    finally:
        site.db.sql("SET GLOBAL general_log = 0")
    sessions = {}
    for thread, what in site.db.sql("SELECT thread_id, argument FROM mysql.general_log WHERE command_type = 'Query' AND "
                                    "user_host LIKE 'plain%' ORDER BY event_time"):
        sessions.setdefault(thread, []).append(what)
    assert len(sessions) >= 4  # the API's, two workers', the command's
    for said in sessions.values():
        assert "completion_type = 0" in said[0] and "autocommit = 1" in " ".join(said[:4]) and "ROLLBACK" in said[:3]
        assert "wsrep_sync_wait = 3" in " ".join(said[:7])  # a node of a cluster answers with what was committed before


def test_how_a_node_of_a_cluster_is_asked_to_wait(site):
    """The statement, as the server runs it: it takes effect, and a server without that variable lets it pass."""
    text = re.search(r'"(/\*M!100600 BEGIN NOT ATOMIC.*?)",\n};', (ROOT / "src" / "store" / "db.c").read_text(), re.S)[1]
    statement = re.sub(r'"\s+"', "", text)
    for name, want in (("wsrep_sync_wait", "3"), ("no_such_variable", "0")):
        out = site.db.sql(f"DELIMITER $$\n{statement.replace('wsrep_sync_wait', name)}$$\nSELECT @@wsrep_sync_wait$$\n")
        assert out == [[want]]


# ---- what the database refuses ----

REFUSALS = {
    "trigger": ("CREATE TRIGGER no BEFORE UPDATE ON contents FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'",
                "DROP TRIGGER no", "not today"),
    "trigger with a number": ("CREATE TRIGGER no BEFORE UPDATE ON contents FOR EACH ROW SIGNAL SQLSTATE '45000' "
                              "SET MYSQL_ERRNO = 30001, MESSAGE_TEXT = 'not\ntoday'", "DROP TRIGGER no", "not today"),
    "constraint": ("ALTER TABLE contents ADD CONSTRAINT no CHECK (content_level <> 'gold')",
                   "ALTER TABLE contents DROP CONSTRAINT no", "CONSTRAINT `no` failed"),
    "right": ("REVOKE UPDATE ON tierd.* FROM plain@localhost", "GRANT UPDATE ON tierd.* TO plain@localhost",
              "UPDATE command denied to user 'plain'@'localhost'"),
}


def hurry(site, cid):
    """What waits is due now."""
    if site.redis.cli("EXISTS", f"lock:{cid}") == "0" and site.redis.cli("ZADD", "tierd:due", "XX", "CH", "1", str(cid)) == "1":
        site.redis.cli("LPUSH", "tierd:wake", "1")


def dead(site, cid):
    hurry(site, cid)
    return site.job(cid)["status"] == "dead" and site.job(cid)


@pytest.mark.parametrize("refuse,allow,words", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_commit_that_is_refused(site, refuse, allow, words):
    """The database's own words at every place, five attempts, then dead, and the copy goes; away is never said."""
    site.add(1, "a", "bronze", b"content")
    with user(site, "plain"):
        site.db.sql(refuse)
        try:
            worker = site.both(workers=1)
            site.post(1, 5000)
            worker.wait_line(rf"will be tried again.*the database refuses the commit: .*{words}")
            answer = site.update(1)
            sentence = json.loads(answer.body)["error"]
            assert answer.status == 500 and sentence.startswith("the database refuses the commit: ") and words in sentence
            assert site.post(1, 5000).status == 503
            assert site.job(1)["status"] == "done" and site.level(1) == "bronze"
            assert site.redis.cli("HGET", "tierd:job:1", "error") == sentence
            job = wait_until(lambda: dead(site, 1), 30, "the job is dead")
            assert job["error"] == f"given up after 5 attempts: {sentence}"
            assert worker.count("will be tried again") == 1  # one cause, one line
            assert worker.count("is away") == site.api.count("is away") == 0
        finally:
            site.db.sql(allow)
        wait_until(lambda: hurry(site, 1) or (site.places("a"), site.redis.cli("EXISTS", "tierd:job:1")) == (["bronze"], "0"), 30,
                   "the copy is taken away once the row can be changed")
        assert site.job(1)["status"] == "dead"
        move(site, 1, "a", "gold")


def test_a_server_that_is_read_only(site):
    """It may be so for long: no attempt is spent, its words stand in the log and in the job."""
    site.add(1, "a", "bronze", b"content")
    with user(site, "plain"), settings(site.db, read_only=1):
        worker = site.both(workers=1)
        site.post(1, 5000)
        sentence = "the database cannot take the commit now: .*--read-only"
        worker.wait_line(f"the commit waits.*{sentence}")
        answer = site.update(1)
        assert answer.status == 503 and "--read-only" in json.loads(answer.body)["error"]
        wait_until(lambda: hurry(site, 1) or int(site.redis.cli("HGET", "tierd:job:1", "waits") or 0) >= 8, 30, "it is tried again")
        assert worker.count(f"the commit waits.*{sentence}") == 1
        assert site.job(1)["status"] == "done" and site.level(1) == "bronze"
        assert worker.count("will be tried again|is away") == 0 and site.redis.cli("HGET", "tierd:job:1", "attempts") == ""
        site.db.sql("SET GLOBAL read_only = 0")
        wait_until(lambda: hurry(site, 1) or site.level(1) == "gold", 30, "the commit")
        site.wait_moved(1, "a", "gold")


def test_the_time_between_refusals_grows(site):
    """A commit that waits is not asked for again each second: after 0.25, 0.5, 1, 2 and then each 4 s."""
    site.add(1, "a", "bronze", b"content")
    with user(site, "plain"), settings(site.db, read_only=1):
        worker = site.both(workers=1)
        site.post(1, 5000)
        worker.wait_line("the commit waits")
        began = time.monotonic()
        for n, least_s in ((4, 1.5), (6, 7.5)):
            wait_until(lambda n=n: int(site.redis.cli("HGET", "tierd:job:1", "waits") or 0) >= n, 30, "it waits")
            assert time.monotonic() - began > least_s
        assert worker.count('the commit waits"') == 1


def test_a_user_who_is_not_let_in(site):
    """Refused is not away."""
    with user(site, "plain"):
        site.db.sql("ALTER USER plain@localhost IDENTIFIED BY 'secret'")
        site.start_api()
        line = site.api.wait_line("database refuses us")
        assert "Access denied for user 'plain'@'localhost'" in line and site.api.count("is away") == 0
        assert "the database refuses us: Access denied" in site.post(1, 5).body
        result = subprocess.run([TIERD, "explain", "1", *site.common()], capture_output=True, text=True, check=False)
        assert result.returncode == 78 and "the database refuses us: Access denied" in result.stderr


# ---- tables in other character sets ----

OLD = """ALTER TABLE level CONVERT TO CHARACTER SET {0} COLLATE {1};
         ALTER TABLE contents MODIFY filename VARCHAR(250) NOT NULL; ALTER TABLE contents CONVERT TO CHARACTER SET {0} COLLATE {1};
         ALTER TABLE contents ADD CONSTRAINT contents_level FOREIGN KEY (content_level) REFERENCES level (level);"""
SETS = ["latin1 latin1_swedish_ci", "latin1 latin1_bin", "latin2 latin2_general_ci", "utf8mb3 utf8mb3_general_ci",
        "utf8mb4 utf8mb4_general_ci", "ucs2 ucs2_unicode_ci", "utf16 utf16_bin", "cp1250 cp1250_general_ci"]


@pytest.mark.parametrize("charset", SETS)
def test_tables_in_another_character_set(site, columns, charset):
    """A name and a level with an umlaut: committed at once, and the row says the very value that `level` has."""
    columns(OLD.format(*charset.split()))
    path = site.paths["höher"] = site.folder / "höher"
    path.mkdir()
    site.db.sql(f"INSERT INTO level VALUES ('höher', '{path}', 9000)")
    names = {1: "Käse/Öl.mp4", 2: "plain.mp4", 3: "ß ü "}
    for cid, name in names.items():
        site.add(cid, name, "bronze", os.urandom(1000))
    worker = site.both()
    for cid, name in names.items():
        move(site, cid, name, "höher", 9000)
    assert site.db.sql("SELECT COUNT(*) FROM contents c JOIN level l ON HEX(c.content_level) = HEX(l.level) WHERE l.min_count = 9000") \
        == [["3"]]
    for cid, name in names.items():
        move(site, cid, name, "silver", 1000)
    assert worker.count("level=(warn|error)") == worker.count("no marker"), worker.lines
    (site.paths["gold"] / "KÄSE").mkdir()
    (site.paths["gold"] / "KÄSE" / "Öl.mp4").write_bytes(b"x")   # the same to the collation, not to us
    (site.paths["gold"] / "\u0142").write_bytes(b"x")          # not in latin1
    (site.paths["gold"] / "☃😀").write_bytes(b"x")
    (pathlib_bytes := os.path.join(os.fsencode(site.paths["gold"]), b"\xff\xe4"))
    with open(pathlib_bytes, "wb") as f:
        f.write(b"x")
    roots = [f"--root={r}" for r in site.roots]
    found = subprocess.run([TIERD, "check", *roots, *site.common()], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "3 contents, 3 in order, 7 files, 4 findings" in found.stdout, found
    assert found.stdout.count("no row names it") == 4


def test_names_in_columns_of_bytes(site, columns):
    """VARBINARY holds any name, also one that is no UTF-8."""
    columns("ALTER TABLE level MODIFY level VARBINARY(64), MODIFY path VARBINARY(1024) NOT NULL;"
            "ALTER TABLE contents MODIFY filename VARBINARY(700) NOT NULL, MODIFY content_level VARBINARY(64) NOT NULL")
    for cid, text in ((1, b"\xff\xe4"), (2, "Käse".encode())):
        site.db.sql(f"INSERT INTO contents (cid, content_level, filename) VALUES ({cid}, 'bronze', X'{text.hex()}')")
        with open(os.path.join(os.fsencode(site.paths["bronze"]), text), "wb") as f:
            f.write(b"x")
    site.both()
    move(site, 2, "Käse", "gold")
    roots = [f"--root={r}" for r in site.roots]
    found = subprocess.run([TIERD, "check", *roots, *site.common()], capture_output=True, text=True, check=False)
    assert found.stdout == "2 contents, 2 in order, 2 files, 0 findings; nothing was changed\n", found


def test_tables_that_cannot_hold_a_level_are_found(site, columns):
    """A letter that the column's character set lacks, a name that is too long: one line each, at start, when the levels
    change, and in `tierd check`."""
    columns("ALTER TABLE contents MODIFY content_level VARCHAR(6) CHARACTER SET latin1 NOT NULL;"
            "ALTER TABLE contents MODIFY filename VARCHAR(250) CHARACTER SET latin1 COLLATE latin1_swedish_ci NOT NULL")
    site.db.sql(f"INSERT INTO level VALUES ('żółty', '{site.folder}/x', 9000)")
    site.start_api()
    cannot = r"contents\.content_level \(6 characters of latin1\) cannot hold the level {}: no move into it can be committed"
    site.api.wait_line("level=error.*" + cannot.format("żółty"))
    site.api.wait_line("level=warn.*contents.filename compare by latin1_swedish_ci")
    site.db.sql(f"INSERT INTO level VALUES ('platinum', '{site.folder}/y', 9001)")
    site.api.wait_line(cannot.format("platinum"))
    assert site.api.count("cannot hold the level") == 3  # the first one again with the new set of levels
    roots = [f"--root={r}" for r in site.roots]
    found = subprocess.run([TIERD, "check", *roots, *site.common()], capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "2 findings" in found.stdout, found
    assert [line.split()[0] for line in found.stdout.splitlines()[:2]] == ["bad-table"] * 2
    assert "latin1_swedish_ci" in found.stderr
    site.db.sql("DELETE FROM level WHERE min_count > 8999")
    found = subprocess.run([TIERD, "check", *roots, *site.common()], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found
