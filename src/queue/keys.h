/*
 * keys: every key of Redis, and of each the fields, the gates and the numbers, once for C and for
 * the scripts (queue/lua): pack.pl reads this file. A key that ends with a colon goes on with a
 * cid, a level or a gate. All times are in ms of Redis' own clock.
 *
 * <cid> itself is the job JSON, for readers. What was posted and not claimed yet is that and its
 * place in KEY_DUE, no more: contents are counted far more often than they are moved.
 */
#ifndef TIERD_QUEUE_KEYS_H
#define TIERD_QUEUE_KEYS_H

#define KEY_LOCK "lock:" /* <cid>: the claim */

/* ZSET cid -> when it is due. */
#define KEY_DUE "tierd:due"

/* <gate>: ZSET like KEY_DUE, of jobs that may not start; nobody looks at them until the gate opens.
 */
#define KEY_PARKED "tierd:parked:"
/* Hash gate -> when it opens; 0: when it is resumed. */
#define KEY_PAUSED "tierd:paused"
/* Hash level -> why it is full, of those among KEY_PAUSED that are. */
#define KEY_FULL "tierd:full"
/* Hash level -> why its last job that found no room for itself did not. */
#define KEY_SHORT "tierd:short"
/* <level>: ZSET cid -> when it is tried again, of these jobs. */
#define KEY_SHORT_JOBS "tierd:short:"
#define KEY_ROUTES     "tierd:routes" /* set of the GATE_ROUTE gates */
/* <level>: ZSET cid -> end of the lease, of moves into the level under way (only counted when their
 * number is limited). */
#define KEY_ACTIVE "tierd:active:"
#define KEY_WAKE   "tierd:wake"   /* list of at most one element, to sleep on */
#define KEY_CLOCK  "tierd:clock"  /* the time of the last claim, to notice when it is set back */
#define KEY_TOKEN  "tierd:token"  /* counter of fencing tokens */
#define KEY_SCAN   "tierd:scan"   /* the worker whose turn it is to look for foreign jobs */
#define KEY_BAD    "tierd:bad:"   /* <cid>: hash of what stands there and is no job, told already */
#define KEY_LEVELS "tierd:levels" /* hash level -> id of its directory's marker (fs/level) */

/* What people watch. */

/* Hash cid -> "done total rate began until worker" (bytes, bytes a second), of claimed moves; one
 * whose worker died is past its `until`. */
#define KEY_PROGRESS "tierd:progress"
#define KEY_DEAD     "tierd:dead"     /* ZSET cid -> when, of jobs that ended so */
#define KEY_CONFLICT "tierd:conflict" /* and were not started anew */
#define KEY_EVENTS   "tierd:events"   /* stream: what happened to contents (cid, what, and more) */
#define KEY_ERRORS   "tierd:errors"   /* stream: what failed, of these */
/* <cid>: list of the last of these of one content, newest first: "time\0what\0name\0value..." each.
 */
#define KEY_LOG     "tierd:log:"
#define KEY_STATS   "tierd:stats"   /* hash of counters, STAT_ */
#define KEY_RATES   "tierd:rates"   /* hash, a ring of RATE_SLOTS: slot -> "slot moves bytes" */
#define KEY_WORKERS "tierd:workers" /* hash worker -> "began until": alive until then */
#define KEY_USE     "tierd:use" /* hash level -> "used free" in bytes, as a looker saw it last */
/* Hash "level\nhost" -> "until since sentence": why it is not to be used there. */
#define KEY_TROUBLE "tierd:trouble"
/* Hash key -> the type it should have, of keys of contents that hold something else than ours
 * (job/keys). */
#define KEY_FOREIGN "tierd:foreign"

/* ---- the job ---- */

/*
 * <cid>: hash, from the first claim of a job until it is finished. That is when no spare is left;
 * then the hash goes, and the JSON gets its time to live (with done-ttl 0 that of a hundred years),
 * by which it is told from a `done` that another program wrote and that nobody counted yet.
 */
#define KEY_JOB      "tierd:job:"
#define FIELD_STATE  "state"  /* job/state */
#define FIELD_HEAD   "head"   /* the JSON up to "worker_id": (job_write_head) */
#define FIELD_REV    "rev"    /* grows when the target changes */
#define FIELD_TOKEN  "token"  /* of the present claim */
#define FIELD_WORKER "worker" /* likewise; gone once it was given up properly */
#define FIELD_SRC    "src"    /* level where the content is */
#define FIELD_TARGET "target" /* level wanted */
/* Target of the last claim of a move, where a worker that died may have left something under a
 * private name. */
#define FIELD_AT       "at"
#define FIELD_FILENAME "filename" /* of the row */
#define FIELD_SEEN     "seen"     /* update_time of the row that it is for */
#define FIELD_BYTES    "bytes"    /* of a done one: how many were copied, */
#define FIELD_MS       "ms"       /* and how long it took */
#define FIELD_ATTEMPTS "attempts" /* how often it failed; a post clears these three */
/* How often its worker died; all that were killed for a level that hangs count as one. */
#define FIELD_CRASHES "crashes"
#define FIELD_WAITS   "waits" /* how often it was put off */
#define FIELD_CRASHED "dead"  /* the token that was counted last as a crash */
/* Of a done one, until the next copy gets its name: the source as it was copied, and the copy as it
 * was published (fs/file, file_id), and their levels; no `to` once it was committed. */
#define FIELD_WAS  "was"
#define FIELD_MADE "made"
#define FIELD_FROM "from"
#define FIELD_TO   "to"
/* Of that copy: its file name, and the path of its level, as they were then. */
#define FIELD_NAME "name"
#define FIELD_PATH "path"
/* The level that another program says to have moved it from, until we move it. */
#define FIELD_TAKEN  "taken"
#define FIELD_ERROR  "error"  /* why it waits or ended */
#define FIELD_GATE   "gate"   /* the one that it is parked behind */
#define FIELD_ACTIVE "active" /* the level among whose moves under way it is counted */
#define FIELD_SHORT  "short"  /* the level that has no room for it, until it is claimed again */
/* <level>: it may hold a copy which is not the authoritative one; the value is when it stopped
 * being that, 0: it never was. */
#define FIELD_SPARE "spare:"

/* ---- gates: a level's own is its name ---- */

#define GATE_ALL    "@all"
#define GATE_WINDOW "@window"  /* until moves may start */
#define GATE_BUSY   "@busy:"   /* <level>: as many moves into it as may be at once */
#define GATE_ROUTE  "@route\n" /* the levels that a job touches, a newline behind each */
/* <level>: none, but shown among them: jobs that found no room for themselves. */
#define GATE_SPACE "@space:"

/* ---- counters of what was done ---- */

#define STAT_MOVES      "moves"
#define STAT_BYTES      "bytes"
#define STAT_MS         "ms"          /* that they took */
#define STAT_WITHIN     "le:"         /* <ms>, one of MOVE_MS, or inf: moves that took no longer */
#define STAT_RETRIED    "retried"     /* failures that were tried again */
#define STAT_DEAD       "dead"        /* jobs that ended so, */
#define STAT_CONFLICT   "conflict"    /* or so */
#define STAT_RECONNECTS "reconnects:" /* <server>: connections of workers that were made anew */

#define MOVE_MS 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000, 300000, 1000000, 3000000

/* ---- what scripts answer ---- */

#define SAID_OK      "ok"
#define SAID_LOST    "lost"    /* the claim is not ours any more */
#define SAID_CHANGED "changed" /* something else is wanted by now, or it is not as it was read */
#define SAID_TAKEN   "taken"   /* another program says to have moved it */
#define SAID_AGAIN   "again"   /* the row is not where Redis believes the content: look again */
#define SAID_COMMIT  "commit"  /* a move is done: commit it first */
#define SAID_ERROR   "error"   /* of the server */
#define SAID_TYPE    "type"    /* a key holds something else than ours */
#define SAID_LARGE   "large"   /* and that is too large to be asked for again soon */
#define SAID_STOPS   "stops"   /* a worker has it, and stops */
#define SAID_LATE    "late"    /* the move is done */
#define SAID_NOTHING "nothing" /* was wanted */
#define SAID_NOT_NOW "not now" /* it is being moved, or its move is done */
#define SAID_NO_JOB  "no job"

/* What a key that is not as we need it stops: moves, or no more than what people watch. */
#define GRADE_STOPS "stops"
#define GRADE_WATCH "watch"

/* What a claim that was given up counts as. */
#define COUNTS_WAIT    "0"
#define COUNTS_ATTEMPT "1"
#define COUNTS_NOTHING ""
#define COUNTS_HANG    "2" /* a wait, whose worker was killed for a level that hangs */

/* ---- numbers ---- */

enum {
    EVENTS_KEPT = 1000, /* in KEY_EVENTS, some 200 KB */
    ERRORS_KEPT = 100,  /* in KEY_ERRORS */
    LOG_KEPT = 10,      /* in a KEY_LOG */
    FOREIGN_MOST = 64,  /* in KEY_FOREIGN: enough to see what is going on */
    TROUBLES_MOST = 64, /* that a status shows */
    RATE_SLOTS = 90,    /* a quarter of an hour */
    RATE_SLOT_MS = 10000,
    AMISS_MOST = 32, /* told at once: more than there are keys without a cid in their name */
    WEEK_MS = 604800000,
};

#endif
