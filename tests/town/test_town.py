"""Moves in a town: everything is reached by name over cables, which are cut; servers hang, crash, and come back."""
import re
import time

import pytest
from conftest import wait_until
from faults.holding import changes, count_changes, hurry
from town.fixtures import SLACK_S, all_settled, contents, in_time, served

POST_S = 1.5  # a post that cannot be served is refused so soon
MIB = 2**20


def refused_in_time(site, cid=1):
    began = time.monotonic()
    assert site.post(cid, 5000).status == 503
    assert time.monotonic() - began < POST_S + SLACK_S


def test_whole_moves_by_name(town_site):
    """Two storage hosts beside each other; names are looked up with the search domain; each move once."""
    site = town_site
    count_changes(site)
    site.start_api()
    workers = [site.start_worker(at=n) for n in (0, 1)]
    found = contents(site, range(1, 31))
    for cid in found:
        assert site.post(cid, 5000, at="desk").status == 200
    all_settled(site, found)
    assert [changes(site, cid) for cid in found] == [1] * len(found)
    hosts = {re.search(r"worker_id=(\w+)\.", line)[1] for w in workers for line in w.lines if "moves bronze to gold" in line}
    assert hosts == {"storage1", "storage2"}
    assert {name for _, name, _ in site.town.dns.asked} >= {"redis.town", "db.town", "api.town"}
    assert site.health()[0] == 200


def test_a_disk_of_its_own(town_site):
    """What storage1 has at /srv nobody else sees, and it is moved there."""
    site, host = town_site, town_site.town.hosts["storage1"]
    for level in ("bronze", "gold"):
        site.db.sql(f"UPDATE level SET path = '/srv/{level}' WHERE level = '{level}'")
        (host.srv / level).mkdir()
        site.paths[level] = host.srv / level
    site.roots.append("/srv")
    found = contents(site, [1])
    site.start_api()
    site.start_worker()
    site.post(1, 5000)
    all_settled(site, found)


@pytest.mark.full_only
@pytest.mark.parametrize("how", ["cut", "unplugged"])
def test_a_worker_loses_redis_in_a_move(town_site, how):
    """Longer than its lease: when it has let go of the file another host moves the content, once; the first goes on with
    other jobs afterwards."""
    site, town = town_site, town_site.town
    count_changes(site)
    found = contents(site, [1], 24 * MIB)
    site.start_api()
    first = site.start_worker("--bandwidth=4M", workers=1, lease="2s")
    site.post(1, 5000)
    first.wait_line("1.bin moves")
    with town.cut("storage1", "redis") if how == "cut" else town.unplugged("storage1"):
        second = site.start_worker(workers=1, lease="2s", at=1)
        wait_until(lambda: hurry(site, 1) or second.count("1.bin moves"), 60, "the other host has it")
        wait_until(lambda: site.level(1) == "gold", 60, "the other host moved it")
    all_settled(site, found)
    second.stop()
    more = contents(site, [2])
    site.post(2, 5000)
    all_settled(site, more)
    assert (changes(site, 1), changes(site, 2)) == (1, 1)
    assert first.count("a child died") == 0


@pytest.mark.parametrize("how", ["crash", pytest.param("cut", marks=pytest.mark.full_only), pytest.param("unplugged", marks=pytest.mark.full_only)])
def test_the_host_of_the_api_is_away(town_site, how):
    """A copy that is done waits; it is committed once when the API is back, with nothing counted against it."""
    site, town = town_site, town_site.town
    count_changes(site)
    found = contents(site, [1], 8 * MIB)
    site.start_api()
    worker = site.start_worker("--bandwidth=4M", workers=1)
    site.post(1, 5000)
    worker.wait_line("1.bin moves")
    {"cut": town.cut, "unplugged": town.unplug}.get(how, lambda _: town.crash(town.api))("api")
    wait_until(lambda: site.job(1)["status"] == "done", 30, "it is copied")
    worker.wait_line("the API is away", timeout=30)
    assert site.level(1) == "bronze" and sorted(site.places("1.bin")) == ["bronze", "gold"]
    town.mend("api")
    town.plug("api")
    if how == "crash":
        site.start_api()
    all_settled(site, found)
    assert changes(site, 1) == 1 and worker.count("a child died|will be tried again") == 0


def test_a_connection_to_redis_is_half_open(town_site):
    """Nothing comes, nobody is told: /health and posts answer in time; all goes on when it flows again."""
    site, town = town_site, town_site.town
    cables = [town.proxy(host, town.redis) for host in ("api", "storage1")]
    found = contents(site, [1, 2])
    site.start_api()
    worker = site.start_worker(workers=1)
    for cable in cables:
        cable.hold()
    assert in_time(site, redis="down") == 503
    refused_in_time(site)
    for cable in cables:
        cable.go()
    served(site, 1, 5000)
    site.post(2, 5000)
    all_settled(site, found)
    assert worker.count("a child died") == 0


def test_a_connection_to_the_database_is_half_open(town_site):
    site, town = town_site, town_site.town
    cable = town.proxy("api", town.db)
    found = contents(site, [1])
    site.start_api()
    site.start_worker(workers=1)
    assert site.health()[0] == 200 and cable.open > 0
    cable.hold()
    assert in_time(site, db="down") == 503
    refused_in_time(site)
    cable.go()
    served(site, 1, 5000)
    all_settled(site, found)


def test_a_connection_to_the_api_is_half_open(town_site):
    site, town = town_site, town_site.town
    count_changes(site)
    cable = town.proxy("storage1", town.api)
    found = contents(site, [1])
    site.start_api()
    worker = site.start_worker(workers=1)
    cable.hold()
    site.post(1, 5000)
    worker.wait_line("the API is away", timeout=30)
    assert site.level(1) == "bronze" and sorted(site.places("1.bin")) == ["bronze", "gold"]
    cable.go()
    all_settled(site, found)
    assert changes(site, 1) == 1


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("server", ["redis", "db"])
def test_connections_that_are_cut_are_made_again(town_site, server, how):
    site, town = town_site, town_site.town
    cable = town.proxy("api", getattr(town, server))
    found = contents(site, [1])
    site.start_api()
    site.start_worker(workers=1)
    for _ in range(5):
        assert cable.open > 0
        cable.cut(how)
        assert served(site) < 1 + SLACK_S
    served(site, 1, 5000)
    all_settled(site, found)


def test_a_slow_line_to_the_api(town_site):
    """A byte each few milliseconds, and each of them late: the answer comes, and the commit is made once."""
    site, town = town_site, town_site.town
    count_changes(site)
    cable = town.proxy("storage1", town.api)
    found = contents(site, [1])
    site.start_api()
    site.start_worker(workers=1)
    cable.delay_s, cable.rate = 0.05, 400
    site.post(1, 5000)
    all_settled(site, found)
    assert changes(site, 1) == 1


def test_the_name_server_is_silent_and_everything_stands(town_site):
    """Connections that stand need no names."""
    site, town = town_site, town_site.town
    found = contents(site, range(1, 11))
    site.start_api()
    site.start_worker(workers=1)
    site.post(1, 5000)  # the worker has its connection to the API from here on
    all_settled(site, {1: found[1]})
    town.dns.silent = True
    for cid in found:
        assert site.post(cid, 5000).status == 200
        all_settled(site, {cid: found[cid]})
    assert in_time(site) == 200


def test_redis_comes_back_before_the_name_server(town_site):
    """It is restarted while no name can be looked up; when names are back, so is everything."""
    site, town = town_site, town_site.town
    found = contents(site, [1])
    site.start_api()
    site.start_worker()
    town.dns.silent = True
    town.redis.stop()
    town.redis.start()
    wait_until(lambda: town.dns.count("redis.town") > 0 or site.post(1, 0).status == 200, 30, "somebody asks")
    town.dns.silent = False
    served(site, 1, 5000, timeout=60)
    all_settled(site, found)


def test_redis_moves_to_another_host(town_site):
    """It is ended, and started elsewhere with its data; the name follows."""
    site, town = town_site, town_site.town
    found = contents(site, [1, 2])
    site.start_api()
    site.start_worker()
    site.post(1, 5000)
    all_settled(site, {1: found[1]})
    town.redis.stop()
    town.move(town.redis, "redis2")
    town.redis.start()
    assert served(site, 1, 5000) < 1 + SLACK_S
    site.post(2, 5000)
    all_settled(site, found)
