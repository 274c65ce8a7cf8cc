/*
 * turns: by what the processes of one service know of each other that they turn, and which levels'
 * file systems do not answer. A table in memory that all children share, made before the first of
 * them: a place for each, in which it says now and then that it turns, and, before it touches
 * levels, which. Nobody waits for anybody here: a child that is stuck in the kernel has said before
 * what it waits for.
 *
 * One process, the looker, touches each level now and then and nothing else. A level is *hung* when
 * a looker has waited for it for TURNS_HUNG_MS: then the others leave it alone until it answers.
 *
 * turns_new -> (supervisor) turns_take -> (child) turn_now, turn_enter ... turn_leave -> turns_drop
 */
#ifndef TIERD_BASE_TURNS_H
#define TIERD_BASE_TURNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TURNS_MAX = 640,        /* processes: all children, and those that were given up */
    TURN_LEVELS_MAX = 64,   /* named by one of them: of further ones nobody is told */
    TURNS_LOOKED_MAX = 256, /* levels that are known to answer: as many as a ladder may have */
    TURN_NAME_BYTES = 128,  /* of a level, as it is shown: a longer one is cut */
    TURNS_HUNG_MS = 5000,   /* a file system of which a look takes longer is taken for hung */
    TURNS_TEXT_BYTES = 640, /* of turn_text */
    TURNS_SAID = 1024,      /* sentences that are kept; of two with one place both are said again */
    TURN_WHO_BYTES = 160,   /* a name, as others know the process by it */
    TURN_HOLDS_MAX = 64,    /* things that one of them holds at once */
};

/* What a process holds in the eyes of others, who would count it as dead of these things. */
struct turn_holds {
    char who[TURN_WHO_BYTES];
    size_t n;
    struct turn_held {
        uint64_t id, token;
    } each[TURN_HOLDS_MAX];
};

struct turns;
struct turn;

/* Shared memory for TURNS_MAX places, or NULL with errno. It lives as long as the processes do. */
struct turns *turns_new(void);

/* A place for a child that is about to be made, or NULL: all are taken. For the supervisor. */
struct turn *turns_take(struct turns *t);

/* The child is gone. */
void turns_drop(struct turn *turn);

/* ---- in a child; `turn` may be NULL, then nothing is said ---- */

void turn_now(struct turn *turn);

/* What follows touches these levels, too. turn_leave with what it returned takes them out again.
 * Both say that we turn. */
size_t turn_enter(struct turn *turn, const char *const *levels, size_t n);
void turn_leave(struct turn *turn, size_t before);

/* The same of the looker, for one level. False: the level was waited for so long that another took
 * our place: we are to end. */
void turn_look(struct turn *turn, const char *level);
bool turn_looked(struct turns *t, struct turn *turn);

/* What we hold from now on, instead of what we held before. */
void turn_hold(struct turn *turn, const struct turn_holds *holds);

/* ---- for all ---- */

/* For how long no look at the level has come back, ms; 0: it answers. */
int64_t turns_hung_ms(const struct turns *t, const char *level);

/* Whether any level is hung: cheap. */
bool turns_any_hung(const struct turns *t);

/* Whether a look at the level has come back, ever, or since the levels are looked at anew. */
bool turns_looked_at(const struct turns *t, const char *level);

/* Whether nobody of us has said anything `about` this within the last minute: then the caller is
 * to. What all find out by themselves is said once, however each would word it. */
bool turns_is_first(struct turns *t, const char *about);

/* What somebody left who was killed for a level that hangs, and which levels (turn_text); it is the
 * caller's to let go of for him. Whose it was, or NULL: nothing. turns_let_go says whether that was
 * done; else another is to. */
struct turn *turns_left(struct turns *t, struct turn_holds *holds, char levels[TURNS_TEXT_BYTES]);
void turns_let_go(struct turn *turn, bool done);

/* ---- in the supervisor ---- */

/* What is known of levels is forgotten: of one that hangs, too. */
void turns_look_anew(struct turns *t);

/* clock_mono_ms of when it last said that it turns. */
int64_t turn_last_ms(const struct turn *turn);

/* Whether it has said that it touches levels, and whether one of them is hung. */
bool turn_is_in_level(const struct turn *turn);
bool turn_is_in_hung(const struct turns *t, const struct turn *turn);

/* It is about to be killed. If that is for a level that hangs, what it holds is left to the others
 * once it is gone or given up. */
void turn_kill(const struct turns *t, struct turn *turn);

/* It was given up: another takes its place. It may still come back. */
void turn_give_up(struct turn *turn);

/* What it is in: "gold", "bronze, gold"; hung ones alone, if there are any. "": no level. */
void turn_text(const struct turns *t, const struct turn *turn, char out[TURNS_TEXT_BYTES]);

#endif
