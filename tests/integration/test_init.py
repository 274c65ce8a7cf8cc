"""What can be said of init/ without running it: scripts parse, services agree with each other."""
import re
import subprocess

import pytest
from harness.servers import ROOT

INIT = ROOT / "init"
SCRIPTS = sorted(p for p in INIT.rglob("*") if p.is_file() and p.read_bytes().startswith(b"#!"))
UNITS = sorted((INIT / "systemd").glob("*.service"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(INIT)))
def test_scripts_parse_and_may_run(script):
    assert subprocess.run(["sh", "-n", script], capture_output=True, check=False).returncode == 0
    assert script.stat().st_mode & 0o111 or script.parent.name == "debian"  # dpkg's are installed as programs


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_units_are_of_one_kind(unit):
    lines = unit.read_text().splitlines()
    role = {"tierd": "all"}.get(unit.stem, unit.stem.removeprefix("tierd-"))
    assert f"ExecStart=/usr/bin/tierd --role={role} --config=/etc/tierd/tierd.conf" in lines
    for line in ("Type=notify", "User=tierd", "NoNewPrivileges=yes", "ProtectSystem=strict", "WatchdogSec=30s",
                 "LoadCredential=tierd.db-password", "LoadCredential=tierd.redis-password", "KillMode=mixed",
                 "RestartPreventExitStatus=64 78", "WantedBy=multi-user.target"):
        assert line in lines, line
    assert ("ReadWritePaths=-/srv/tierd" in lines) == (role != "api")
    assert ("CapabilityBoundingSet=" in lines) == (role == "api")


def test_all_services_give_a_worker_the_same_rights():
    """systemd's unit and the starter of the other managers name the same capabilities."""
    run = re.search(r"caps=-all,(\S+) ;;", (INIT / "tierd-run").read_text()).group(1)
    starter = {c.removeprefix("+").upper() for c in run.split(",")}
    for unit in UNITS:
        for line in re.findall(r"^(?:CapabilityBoundingSet|AmbientCapabilities)=(.+)", unit.read_text(), re.M):
            assert {c.removeprefix("CAP_") for c in line.split()} == starter, unit.name


def test_lsb_header():
    text = (INIT / "sysv" / "tierd").read_text()
    header = text.split("### BEGIN INIT INFO\n")[1].split("### END INIT INFO")[0]
    assert [line.split(":")[0] for line in header.splitlines()] == [
        f"# {k}" for k in ("Provides", "Required-Start", "Required-Stop", "Should-Start", "Should-Stop", "Default-Start",
                           "Default-Stop", "Short-Description", "Description")]


def test_every_file_of_init_is_installed():
    makefile = (ROOT / "Makefile").read_text()
    for path in INIT.iterdir():
        assert path.name in makefile or path.name == "debian", path.name
