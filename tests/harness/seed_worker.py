"""A worker of the kind that there was before tierd: it knows the job JSON, the folders and /update_sentence.

  seed_worker.py REDIS_SOCKET API LEVELS MODE

LEVELS is JSON, name -> folder. MODE: `plain` takes what it finds, `lock` claims it by `lock:<cid>` before, as
tierd does. It prints a line for each answer: cid, status, body. SIGTERM ends it between two files, as a service
manager does.
"""
import json
import os
import shutil
import signal
import sys
import time

import redis
import requests


def main(socket, api, levels, mode):
    r = redis.Redis(unix_socket_path=socket, db=1, decode_responses=True)
    me, folders, session, ends = f"old.{os.getpid()}", json.loads(levels), requests.Session(), []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    while not ends:
        found = False
        for key in r.scan_iter(match="[1-9]*", count=100):
            if ends:
                break
            if r.type(key) == "string" and key.isdigit():
                found |= attend(r, session, api, folders, mode, me, key)
        if not found:
            time.sleep(0.02)


def attend(r, session, api, folders, mode, me, cid):
    job = json.loads(r.get(cid) or "{}")
    if job.get("status") != "update":
        return False
    if mode == "lock":
        if not r.set(f"lock:{cid}", me, nx=True, px=30000):
            return False
        job = json.loads(r.get(cid) or "{}")  # what it was before may have been done by somebody
    try:
        if job.get("status") == "update":
            move(r, session, api, folders, job)
    finally:
        if mode == "lock" and r.get(f"lock:{cid}") == me:
            r.delete(f"lock:{cid}")
    return True


def move(r, session, api, folders, job):
    source = os.path.join(folders[job["db_level"]], job["filename"])
    try:
        shutil.move(source, os.path.join(folders[job["target"]], job["filename"]))
    except FileNotFoundError:
        print(job["cid"], "not exists", flush=True)
        return
    job["status"] = "done"
    r.set(job["cid"], json.dumps(job))
    answer = session.post(f"{api}/update_sentence", data={"cid": job["cid"]}, timeout=30)
    print(job["cid"], answer.status_code, answer.text, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
