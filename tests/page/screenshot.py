"""`make screenshot`: the page with moves under way, light and dark, on a desk and on a phone.

Real servers, real moves: gold is a tmpfs, so that moves are copies, and a low bandwidth makes them last.
"""
import os
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from conftest import Site, wait_until  # noqa: E402
from harness.servers import ROOT, MariaDB, Redis  # noqa: E402
from page.browser import browser, look, missing  # noqa: E402

OUT = ROOT / "build" / "screenshots"
FILMS = {101: ("films/2018/summer in the city.mp4", 60, 5200), 102: ("films/2019/north.mkv", 90, 2750),
         103: ("talks/keynote-2026.webm", 160, 4100), 104: ("series/s01e04.mp4", 2, 1450),
         105: ("series/s01e05.mp4", 2, 1210), 106: ("films/2017/lost reel.mp4", 0, 3000)}
SHOTS = {"light": (1180, 960, False, ""), "dark": (1180, 960, True, "#102"), "phone": (390, 1560, False, ""),
         "phone-dark": (390, 844, True, "#103")}


def fill(site):
    site.sample()
    for cid, (name, mib, _) in FILMS.items():
        site.add(cid, name, "bronze", os.urandom(mib * 2**20))
    (site.paths["bronze"] / FILMS[106][0]).unlink()
    site.start_api()
    site.start_worker("--bandwidth=1500K", workers=4, lease="30s")
    for cid, count in ((7, 1964), (5, 12), *((cid, count) for cid, (_, _, count) in FILMS.items())):
        site.post(cid, count)
        time.sleep(0.4)
    time.sleep(22)  # something for the plot


def shoot(site, driver, name, width, height, dark, fragment):
    look(driver, width, height, dark)
    driver.get("about:blank")
    driver.get(f"http://{site.api.address}/{fragment}")
    wait_until(lambda: driver.execute_script("return document.querySelectorAll('.move').length") > 1, what="moves")
    time.sleep(2.2)  # the bars have come to rest
    driver.save_screenshot(str(OUT / f"{name}.png"))
    print(f"  {OUT / name}.png")


def main():
    if missing():
        print(missing(), file=sys.stderr)
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    folder, other = tempfile.mkdtemp(prefix="tierd-shot."), tempfile.mkdtemp(prefix="tierd-shot.", dir="/dev/shm")
    redis, db, site = Redis(f"{folder}/redis"), MariaDB(f"{folder}/db"), None
    try:
        redis.start()
        db.install().start()
        db.load("schema.sql")
        site = Site(redis, db, f"{folder}/levels", other)
        fill(site)
        with browser() as driver:
            for name, shot in SHOTS.items():
                shoot(site, driver, name, *shot)
    finally:
        if site:
            site.close()
        redis.close()
        db.close()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(other, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
