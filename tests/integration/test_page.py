"""The page in a real browser: headless Chromium."""
import os
import re
import signal

import pytest
from conftest import wait_until
from page.browser import browser, look, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def text(driver, selector):
    return driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)


def test_page(two_fs):
    site = two_fs
    site.sample()
    site.add(50, "<b>big<i> & slow.bin", "bronze", b"")
    (site.paths["bronze"] / "<b>big<i> & slow.bin").write_bytes(os.urandom(8 * 2**20))
    site.start_api()
    site.start_worker("--bandwidth=512K", workers=2)
    with browser() as driver:
        driver.get(f"http://{site.api.address}/")
        wait_until(lambda: "2 workers" in text(driver, "#health"), what="health")
        assert "Redis ok" in text(driver, "#health") and "Database ok" in text(driver, "#health")
        assert all(level in text(driver, "#levels") for level in ("gold", "silver", "bronze"))

        site.post(50, 5000)
        # a running move, its name as text whatever it holds, its bar growing
        wait_until(lambda: "<b>big<i> & slow.bin" in text(driver, "#moves .name"), what="the move")
        now = "return Number(document.querySelector('#moves [role=progressbar]')?.getAttribute('aria-valuenow') ?? -1)"
        first = wait_until(lambda: max(0, driver.execute_script(now)), what="progress")
        wait_until(lambda: driver.execute_script(now) > first, what="more progress")
        assert "KiB/s" in text(driver, "#moves") and "left" in text(driver, "#moves")
        assert "bronze → gold" in text(driver, "#moves")
        wait_until(lambda: driver.execute_script("return document.querySelectorAll('#bytes path.edge').length") == 1,
                   what="the plot")

        # a content, found by its cid
        box = driver.find_element("css selector", "#cid")
        box.send_keys("50")
        box.submit()
        wait_until(lambda: "moves it from bronze to gold" in text(driver, "#job"), what="the explanation")
        assert "5000 belongs in gold" in text(driver, "#job")
        box.clear()
        box.send_keys("99")
        box.submit()
        wait_until(lambda: "99 does not exist" in text(driver, "#job"), what="not found")

        # the move ends, and is an event then
        wait_until(lambda: "50 moved bronze to gold" in text(driver, "#events"), 60, "the event")
        wait_until(lambda: text(driver, "#moves") == "None.", what="no move is left")

        # the server goes away, and comes back
        assert text(driver, "#away") == ""
        address = site.api.address
        site.api.stop()
        wait_until(lambda: "does not answer" in text(driver, "#away"), what="it says so")
        site.api = site.start("--role=api", f"--listen={address}", *site.common())
        wait_until(lambda: text(driver, "#away") == "", what="it goes on")
        # nothing but the lost server was complained about: no script error, no blocked resource
        bad = [e for e in driver.get_log("browser") if "ERR_CONNECTION" not in e["message"]
               and "404" not in e["message"] and "Failed to fetch" not in e["message"]]
        assert not bad


def test_a_long_name_stays_in_its_card(two_fs):
    site = two_fs
    name = "a directory/" * 15 + "big.bin"
    site.add(50, name, "bronze", os.urandom(8 * 2**20))
    site.start_api()
    site.start_worker("--bandwidth=512K", workers=1)
    site.post(50, 5000)
    outside = """return [...document.querySelectorAll('#moves .line *')].filter(e => e.scrollWidth > e.clientWidth + 1 ||
        e.getBoundingClientRect().right > e.closest('section').getBoundingClientRect().right - 10).map(e => `${e.outerHTML} ${e.scrollWidth} ${e.clientWidth} ${e.getBoundingClientRect().right}`)"""
    with browser() as driver:
        driver.get(f"http://{site.api.address}/")
        wait_until(lambda: name in text(driver, "#moves .name"), what="the move")
        wait_until(lambda: "left" in text(driver, "#moves"), what="its rate")
        for width in (1180, 820, 390, 320):
            look(driver, width, 900, False)
            assert driver.execute_script(outside) == [], width


def test_a_search_that_is_no_cid_is_answered(site):
    site.start_api()
    with browser() as driver:
        driver.get(f"http://{site.api.address}/#50%")
        wait_until(lambda: "a whole number from 1" in text(driver, "#job"), what="the answer")
        wait_until(lambda: "Redis ok" in text(driver, "#health"), what="the rest of the page")


def test_events_of_another_day_have_their_date(site):
    site.sample()
    site.start_api()
    for i in range(10):
        site.redis.cli("EVAL", rf"redis.call('RPUSH', 'tierd:log:7', '{1000000000000 - i}\0waits\0error\0no. {i}')", "0")
    site.redis.cli("XADD", "tierd:errors", "1000000000000-0", "cid", "7", "what", "dead", "error", "long ago")
    with browser(390, 844) as driver:
        driver.get(f"http://{site.api.address}/#7")
        wait_until(lambda: "waits: no. 9" in text(driver, "#job"), what="all of them")
        day = r"2001-09-0[89] \d\d:\d\d:\d\d"
        assert len(re.findall(rf"^{day}$", text(driver, "#job"), re.M)) == 10
        assert re.search(r"row changed\s+\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", text(driver, "#job"), re.M)
        wait_until(lambda: re.search(rf"{day}\s+7 dead: long ago", text(driver, "#errors")), what="the error")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, "nothing sticks out on a phone"


def test_redis_away(own_site):
    own_site.sample()
    own_site.start_api()
    with browser(390, 844, dark=True) as driver:
        driver.get(f"http://{own_site.api.address}/#7")
        wait_until(lambda: "no count of it is known" in text(driver, "#job"), what="the explanation")
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, "nothing sticks out on a phone"
        own_site.redis.stop(signal.SIGKILL)
        wait_until(lambda: "Redis is away" in text(driver, "#away"), what="it says so")
        assert "Redis down" in text(driver, "#health")
        own_site.redis.start()
        wait_until(lambda: text(driver, "#away") == "", what="it goes on")
