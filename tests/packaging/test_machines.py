"""The Debian package in a machine that systemd really runs: install, start, post, upgrade, remove, purge. And the
services of the other managers, run by them."""
import os
import re
import signal
import subprocess
import tarfile

from conftest import wait_until
from harness.servers import ROOT
from machines import CONF, PASSWORD, check_move, digest, machine, outside, packages  # noqa: F401


def active(machine, unit):
    return machine.run("systemctl", "is-active", unit, ok=None).stdout.strip()


def enabled(machine, unit):
    return machine.run("systemctl", "is-enabled", unit, ok=None).stdout.strip()


def main_pid(machine, unit):
    return int(machine.run("systemctl", "show", "-P", "MainPID", unit).stdout)


def configure(machine):
    machine.write("/etc/tierd/tierd.conf", CONF)
    machine.write("/etc/credstore/tierd.db-password", PASSWORD, 0o600)


def test_life_of_a_package(machine, packages):
    m = machine("systemd")
    m.install(packages[0])
    for unit in ("tierd", "tierd-api", "tierd-worker"):
        assert active(m, unit) == "inactive" and enabled(m, unit) == "disabled"
    assert m.run("id", "tierd").stdout.startswith("uid=")
    assert m.run("stat", "-c", "%U:%G %a", "/etc/tierd").stdout == "root:tierd 750\n"
    configure(m)
    m.run("systemctl", "enable", "--now", "tierd")
    pid = main_pid(m, "tierd")
    check_move(m, 7, "g.mp4", 1964, "silver")

    m.run("systemctl", "reload", "tierd")
    assert main_pid(m, "tierd") == pid and active(m, "tierd") == "active"
    check_move(m, 4, "d.mp4", 2500, "gold")

    content = digest(m)
    m.install(packages[1])
    assert active(m, "tierd") == "active" and enabled(m, "tierd") == "enabled"
    assert main_pid(m, "tierd") != pid  # the new program runs
    assert m.path("/etc/tierd/tierd.conf").read_text() == CONF
    assert active(m, "tierd-api") == "inactive" and enabled(m, "tierd-api") == "disabled"
    check_move(m, 1, "a.mp4", 1, "bronze")

    m.run("dpkg", "-r", "tierd")
    assert not m.tierd_pids() and not m.path("/usr/bin/tierd").exists()
    assert m.path("/etc/tierd/tierd.conf").read_text() == CONF  # removed, not purged
    assert m.run("systemctl", "--failed", "--no-legend").stdout == ""
    m.install(packages[1])
    assert enabled(m, "tierd") == "enabled"
    m.run("dpkg", "-P", "tierd")
    assert digest(m) == content
    assert m.run("dpkg", "-l", "tierd", ok=None).returncode == 1
    left = m.run("find", "/etc", "/lib", "/usr", "/var/lib/systemd", "-xdev", "-name", "*tierd*").stdout.split()
    assert left == ["/etc/credstore/tierd.db-password"]  # the administrator's, not the package's
    assert "broken" not in m.run("dpkg", "--audit").stdout


def test_units_of_two_roles(machine, packages):
    m = machine("systemd")
    m.install(packages[0])
    configure(m)
    m.run("systemctl", "start", "tierd-api", "tierd-worker")
    check_move(m, 7, "g.mp4", 1964, "silver")
    for pid in m.tierd_pids():
        assert m.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() in ("tierd", "root")  # root: not dumpable
        status = dict(line.split(":\t", 1) for line in m.path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split()[0] != "0" and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    # what it may not
    worker = str(main_pid(m, "tierd-worker"))
    def as_worker(*words):
        return m.run("nsenter", "-t", worker, "-m", "setpriv", "--reuid=tierd", "--regid=tierd", "--clear-groups",
                     *words, ok=None).returncode
    assert as_worker("touch", "/etc/x") != 0 and as_worker("test", "-r", "/root") != 0
    # one unit for all stands in for both
    m.run("systemctl", "start", "tierd")
    assert active(m, "tierd-api") == "inactive" and active(m, "tierd-worker") == "inactive"
    check_move(m, 4, "d.mp4", 2500, "gold")
    log = m.run("journalctl", "-u", "tierd", "-o", "json-pretty", "--no-pager").stdout
    assert '"PRIORITY" : "6"' in log and re.search(r'"MESSAGE" : "level=info msg=\\"d.mp4 moves bronze to gold\\"', log)
    assert "<6>" not in log and "time=" not in log


def test_watchdog_and_restart(machine, packages):
    m = machine("systemd")
    m.install(packages[0])
    configure(m)
    m.write("/etc/systemd/system/tierd.service.d/fast.conf", "[Service]\nWatchdogSec=1s\nRestartSec=100ms\nWatchdogSignal=SIGKILL\n")
    m.run("systemctl", "daemon-reload")
    m.run("systemctl", "start", "tierd")
    pid = main_pid(m, "tierd")
    os.kill(m.host_pid(pid), signal.SIGSTOP)  # no freeze(): it may be killed before it is seen to stand still
    wait_until(lambda: main_pid(m, "tierd") not in (0, pid), what="the watchdog restarts a supervisor that hangs")
    wait_until(lambda: active(m, "tierd") == "active", what="active again")
    check_move(m, 7, "g.mp4", 1964, "silver")
    # options that are wrong are not tried again and again
    m.write("/etc/tierd/tierd.conf", CONF + "nonsense = 1\n")
    m.run("systemctl", "restart", "tierd", ok=None)
    assert active(m, "tierd") == "failed"
    assert m.run("systemctl", "show", "-P", "ExecMainStatus", "tierd").stdout == "78\n"
    assert "nonsense" in m.run("journalctl", "-u", "tierd", "-p", "err", "--no-pager").stdout


def test_security_scores(machine, packages):
    """systemd's own judgement, 0 (safe) to 10; what each unit has today, so that it gets no worse."""
    m = machine("systemd")
    m.install(packages[0])
    for unit, most in (("tierd-api", 1.1), ("tierd-worker", 2.0), ("tierd", 2.0)):
        m.run("systemd-analyze", "verify", "--man=no", f"/lib/systemd/system/{unit}.service")
        out = m.run("systemd-analyze", "security", "--no-pager", f"{unit}.service").stdout
        score = float(re.search(r"Overall exposure level for .*: ([0-9.]+)", out).group(1))
        print(f"{unit}: {score}")
        assert score <= most, out


# ---- other service managers ----

def without_systemd(machine, package):
    """A machine without systemd, the package installed; passwords stand in files for the group tierd."""
    m = machine("s6")
    m.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n", 0o755)  # its first process is not init: allow it all the same
    m.install(package)
    m.write("/etc/tierd/tierd.conf", CONF + "db-password-file = /etc/tierd/db.password\n")
    m.write("/etc/tierd/db.password", PASSWORD, 0o640)
    m.run("chown", "root:tierd", "/etc/tierd/db.password")
    assert not m.tierd_pids()
    return m


def check_rights(machine):
    """Nobody is root, and the only capabilities are the six that copies need."""
    for pid in machine.tierd_pids():
        status = dict(line.split(":\t", 1) for line in machine.path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert "0" not in status["Uid"].split() and status["NoNewPrivs"] == "1"
        assert status["CapEff"] == status["CapBnd"] == "000000001000001f"


def test_sysv(machine, packages):
    m = without_systemd(machine, packages[0])
    init = "/etc/init.d/tierd"
    assert m.run(init, "status", ok=3)
    m.run(init, "start")
    check_move(m, 7, "g.mp4", 1964, "silver")
    check_rights(m)
    m.run(init, "status")
    pids = m.tierd_pids()
    m.run(init, "start")  # a second start is none
    assert m.tierd_pids() == pids
    m.run(init, "reload")
    wait_until(lambda: "settings read again" in m.path("/var/log/tierd.log").read_text(), what="the reload")
    m.run(init, "restart")
    assert not set(pids) & set(m.tierd_pids())
    check_move(m, 4, "d.mp4", 2500, "gold")
    pids = m.tierd_pids()
    m.install(packages[1])
    assert not set(pids) & set(m.tierd_pids())  # the new program runs
    check_move(m, 1, "a.mp4", 1, "bronze")
    m.run("logrotate", "-f", "/etc/logrotate.d/tierd")
    m.run(init, "stop")
    assert not m.tierd_pids()
    m.run(init, "stop")
    m.write("/etc/tierd/tierd.conf", "nonsense = 1\n")
    assert "nonsense" in m.run(init, "start", ok=1).stderr
    m.write("/etc/tierd/tierd.conf", CONF + "db-password-file = /etc/tierd/db.password\n")
    m.run(init, "start")
    content = digest(m)
    m.run("dpkg", "-P", "tierd")
    assert not m.tierd_pids() and digest(m) == content
    assert m.run("find", "/etc", "/var/log", "/run", "-name", "*tierd*").stdout.split() == ["/etc/tierd"]
    assert [p.name for p in m.path("/etc/tierd").iterdir()] == ["db.password"]


def test_openrc(machine, packages):
    m = without_systemd(machine, packages[0])
    m.run("cp", "/usr/share/tierd/init/openrc/tierd", "/etc/init.d/tierd")
    m.run("sh", "-n", "/etc/init.d/tierd")
    m.run("mkdir", "-p", *(f"/run/openrc/{d}" for d in (  # what OpenRC's own boot makes
        "started starting stopping inactive wasinactive failed hotplugged daemons options exclusive scheduled tmp").split()))
    m.write("/run/openrc/softlevel", "default")
    m.run("rc-service", "--nodeps", "tierd", "start")
    check_move(m, 7, "g.mp4", 1964, "silver")
    check_rights(m)
    m.run("rc-service", "tierd", "status")
    m.run("rc-service", "--nodeps", "tierd", "reload")
    wait_until(lambda: "settings read again" in m.path("/var/log/tierd.log").read_text(), what="the reload")
    m.run("rc-service", "--nodeps", "tierd", "stop")
    assert not m.tierd_pids()


def test_runit(machine, packages):
    m = without_systemd(machine, packages[0])
    m.run("cp", "-r", "/usr/share/tierd/init/runit/tierd", "/etc/service-tierd")
    m.run("mkdir", "-p", "/etc/scan")
    m.run("ln", "-s", "/etc/service-tierd", "/etc/scan/tierd")
    m.run("sh", "-c", "runsvdir -P /etc/scan >/dev/null 2>&1 &")
    check_move(m, 7, "g.mp4", 1964, "silver")
    check_rights(m)
    wait_until(lambda: "ready role=worker" in m.path("/var/log/tierd/current").read_text(), what="svlogd has the log")
    pids = m.tierd_pids()
    m.run("sv", "-w", "60", "restart", "/etc/scan/tierd")
    wait_until(lambda: m.tierd_pids() and not set(pids) & set(m.tierd_pids()), what="a new tierd")
    check_move(m, 4, "d.mp4", 2500, "gold")
    os.kill(m.host_pid(min(m.tierd_pids())), 9)
    wait_until(lambda: m.ask("/health")[0] == 200, what="runit starts it again")
    m.run("sv", "-w", "60", "stop", "/etc/scan/tierd")
    assert not m.tierd_pids()
    m.write("/etc/tierd/tierd.conf", "nonsense = 1\n")
    m.run("sv", "start", "/etc/scan/tierd", ok=None)
    wait_until(lambda: m.run("sv", "status", "/etc/scan/tierd", ok=None).stdout.startswith("down"),
               what="wrong options are not tried for ever")


def test_s6(machine, packages):
    m = without_systemd(machine, packages[0])
    m.run("cp", "-r", "/usr/share/tierd/init/s6/tierd", "/etc/s6/tierd")
    m.run("s6-svscanctl", "-a", "/etc/s6")
    check_move(m, 7, "g.mp4", 1964, "silver")
    check_rights(m)
    wait_until(lambda: "ready role=worker" in m.path("/var/log/tierd/current").read_text(), what="s6-log has the log")
    os.kill(m.host_pid(min(m.tierd_pids())), 9)
    wait_until(lambda: m.ask("/health")[0] == 200, what="s6 starts it again")
    m.run("s6-svc", "-wd", "-T", "60000", "-d", "/etc/s6/tierd")
    assert not m.tierd_pids()
    m.write("/etc/tierd/tierd.conf", "nonsense = 1\n")
    m.run("s6-svc", "-u", "/etc/s6/tierd")
    wait_until(lambda: "exitcode 78" in m.run("s6-svstat", "/etc/s6/tierd").stdout, what="wrong options are left alone")


# ---- archives ----

def test_what_lintian_finds_has_a_reason(packages):
    """Nothing that init/debian/lintian-overrides does not speak of, and that speaks of nothing else."""
    said = subprocess.run(["lintian", "--allow-root", "--pedantic", "-I", packages[0]], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr, said.returncode) == ("", "", 0)


def test_packages_are_reproducible():
    """Built twice, later and by another umask: the same bytes; everything is root's."""
    made = []
    for umask in (0o022, 0o077):
        env = {**os.environ, "MAKEFLAGS": "", "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(["make", "-s", "deb", "tar", "PACKAGE_VERSION=0.0.3"], cwd=ROOT, check=True, env=env, umask=umask)
        made.append([next((ROOT / "build").glob(p)).read_bytes() for p in ("tierd_0.0.3_*.deb", "tierd-0.0.3-*.tar.gz")])
    assert made[0] == made[1]
    with tarfile.open(next((ROOT / "build").glob("tierd-0.0.3-*.tar.gz"))) as archive:
        names = archive.getnames()
        top = names[0].split("/")[0]
        assert names == sorted(names) and all(n.split("/")[0] == top for n in names) and f"{top}/bin/tierd" in names
        for member in archive:
            assert member.uid == member.gid == 0 and member.mtime == 1700000000 and not member.mode & 0o022


def test_the_archive_runs_anywhere(tmp_path):
    """One static binary: it runs with nothing else in its root."""
    subprocess.run(["make", "-s", "tar", "PACKAGE_VERSION=0.0.3"], cwd=ROOT, check=True, env={**os.environ, "MAKEFLAGS": ""})
    with tarfile.open(next((ROOT / "build").glob("tierd-0.0.3-*.tar.gz"))) as archive:
        archive.extractall(tmp_path)
    top = next(tmp_path.iterdir())
    out = subprocess.run(["unshare", "--map-root-user", "--root", top, "/bin/tierd", "--version"], capture_output=True,
                         text=True, check=False)
    assert out.stdout.startswith("tierd ") and out.returncode == 0
    notices = (top / "share" / "doc" / "tierd" / "THIRD-PARTY").read_text()
    for of in ("Apache License", "LESSER GENERAL PUBLIC LICENSE", "Salvatore Sanfilippo", "YaoYuan", "Rich Felker"):
        assert of in notices
