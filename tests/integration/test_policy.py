"""Rules that keep moves from thrashing: the API, explain and a dry run say the same."""
import json
import subprocess

import pytest
from conftest import wait_until
from harness.servers import TIERD


def ask(site, cid, count, *options):
    """What the API decides, what explain says of it, and what a dry run says: (target, rule)."""
    words = [*site.common(), f"--api=http://{site.api.address}", *options]
    dry = subprocess.run([TIERD, "post", str(cid), str(count), "--dry-run", *words], capture_output=True, text=True,
                         check=True).stdout
    target = json.loads(site.post(cid, count).body)["target"]
    explain = json.loads(subprocess.run([TIERD, "explain", str(cid), "--json", *words], capture_output=True, text=True,
                                        check=True).stdout)
    seen = json.loads(site.request("GET", f"/jobs/{cid}").body)["decision"]
    assert explain["decision"] == seen and seen["target"] == target
    assert seen["why"] in dry
    return target, seen["rule"]


def test_demote_margin(site):
    site.sample()
    site.start_api("--demote-margin=10%")
    assert ask(site, 1, 1800, "--demote-margin=10%") == ("gold", "demote-margin")
    assert ask(site, 1, 1799, "--demote-margin=10%") == ("silver", "ladder")
    assert ask(site, 2, 1000, "--demote-margin=10%") == ("silver", "ladder")


def test_min_residency(site):
    site.sample()
    site.db.sql("UPDATE contents SET update_time = NOW() - INTERVAL 2 HOUR WHERE cid = 6")
    options = ["--min-residency=1h"]
    site.start_api(*options)
    assert ask(site, 1, 0, *options) == ("gold", "min-residency")
    assert ask(site, 2, 5000, *options) == ("bronze", "min-residency")
    assert ask(site, 6, 0, *options) == ("bronze", "ladder")
    assert ask(site, 1, 5000, *options) == ("gold", "stays")


def test_max_use(site):
    site.sample()
    options = ["--max-use=gold=80%,95%"]
    site.start_api(*options)
    assert ask(site, 2, 5000, *options) == ("gold", "ladder")  # nobody knows yet how full it is
    site.redis.cli("HSET", "tierd:use", "gold", "81 19", "silver", "94 6")
    wait_until(lambda: json.loads(site.post(4, 5000).body)["target"] == "silver", what="the API looked again")
    assert ask(site, 4, 5000, *options) == ("silver", "max-use")
    assert ask(site, 3, 5000, *options) == ("silver", "max-use")  # it stays in silver
    assert ask(site, 1, 1500, *options) == ("silver", "ladder")  # making room is allowed
    assert ask(site, 1, 2500, *options) == ("gold", "stays")


def test_max_use_goes_by_the_name_of_a_level(site):
    """A level is added below: the places of the others change, what is known of them does not."""
    site.sample()
    site.redis.cli("HSET", "tierd:use", "gold", "91 9", "silver", "1 99")
    site.start_api("--max-use=90%")
    for n in range(5):  # a look at how full they are, every 3 s, may come in between
        level = f"copper{n}"
        site.db.sql(f"INSERT INTO level VALUES ('{level}', '{site.folder / level}', {500 + n})")
        wait_until(lambda want=level, count=500 + n: json.loads(site.post(2, count).body)["target"] == want,
                   what="the levels were read again")
        assert json.loads(site.post(2, 5000).body)["target"] == "silver"


def test_max_use_holds_for_the_first_post(site):
    site.sample()
    site.redis.cli("HSET", "tierd:use", "gold", "91 9")
    site.start_api("--max-use=90%")
    assert json.loads(site.post(2, 5000).body)["target"] == "silver"


def test_a_level_that_there_is_not_is_warned_of(site):
    """Once, when the levels are known; by the API, and by a command."""
    site.sample()
    options = ["--max-use=gld=80%,gold=90%,95%", "--levels=bronze, silvr,gold"]
    api = site.start_api(*options)
    said = "{} names the level '{}', which the catalogue does not have; it has gold, silver, bronze"
    for option, name in (("max-use", "gld"), ("levels", "silvr")):
        api.wait_line("level=warn .*" + said.format(option, name))
    site.db.sql("UPDATE level SET min_count = 1500 WHERE level = 'silver'")
    wait_until(lambda: json.loads(site.post(2, 1400).body)["target"] == "bronze", what="the levels were read again")
    assert api.count("which the catalogue does not have") == 2
    result = subprocess.run([TIERD, "explain", "2", *site.common(), *options], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines() == ["tierd: " + said.format("max-use", "gld"), "tierd: " + said.format("levels", "silvr")]
    result = subprocess.run([TIERD, "explain", "2", *site.common(), "--max-use=gold=80%,90%", "--levels=gold, silver"],
                            capture_output=True, text=True, check=True)
    assert result.stderr == ""


def test_off_by_default(site):
    site.sample()
    site.redis.cli("HSET", "tierd:use", "gold", "100 0", "silver", "100 0")
    site.start_api()
    assert ask(site, 1, 1999) == ("silver", "ladder")
    assert ask(site, 2, 2000) == ("gold", "ladder")


@pytest.mark.parametrize("option", ["--demote-margin=10", "--demote-margin=101%", "--max-use=gold", "--max-use=90%,",
                                    "--min-residency=1y"])
def test_wrong_options(option):
    result = subprocess.run([TIERD, "--role=api", "--listen=127.0.0.1:0", option], capture_output=True, text=True,
                            check=False)
    assert result.returncode == 64 and option.split("=")[0] in result.stderr and "allowed" in result.stderr
