"""The same endpoint as a web developer writes it: Flask, PyMySQL and redis-py under gunicorn. One row is looked
up, the level decided, and the job's JSON set in Redis. Connections are kept, one a thread."""
import json
import os
import threading
import time

import flask
import pymysql
import redis

LADDER_SECONDS = 3
app = flask.Flask(__name__)
store = redis.Redis(unix_socket_path=os.environ["BENCH_REDIS"], db=1)
local = threading.local()
ladder = {"read": 0.0, "levels": []}


def database():
    if not hasattr(local, "db"):
        local.db = pymysql.connect(unix_socket=os.environ["BENCH_DB"], user="root", database="tierd", autocommit=True)
    return local.db


def levels(cursor):
    """The level table, read again every few seconds as tierd does."""
    if time.monotonic() - ladder["read"] > LADDER_SECONDS:
        cursor.execute("SELECT level, min_count FROM level ORDER BY min_count")
        ladder["levels"] = list(cursor.fetchall())
        ladder["read"] = time.monotonic()
    return ladder["levels"]


@app.post("/post_sentence")
def post_sentence():
    cid, count = flask.request.form.get("cid", ""), flask.request.form.get("count", "")
    if not cid.isdecimal() or not count.isdecimal():
        return flask.jsonify(error="cid and count are whole numbers"), 400
    with database().cursor() as cursor:
        ranks = levels(cursor)
        cursor.execute("SELECT content_level, filename FROM contents WHERE cid = %s", (int(cid),))
        row = cursor.fetchone()
    if row is None:
        return flask.jsonify(error=f"the content with cid {cid} does not exist"), 404
    target = ranks[0][0]
    for name, min_count in ranks:
        if min_count <= int(count):
            target = name
    job = json.dumps({"cid": cid, "count": count, "target": target, "db_level": row[0], "filename": row[1],
                      "worker_id": None, "status": "done" if target == row[0] else "update"})
    store.set(cid, job)
    return flask.Response(job, mimetype="application/json")
