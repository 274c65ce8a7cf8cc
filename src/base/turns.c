#include "base/turns.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"

/* Its own process writes a place; so does the supervisor of one that it kills or that has ended
 * (`given_up`, `left`, `is_left`, `left_for`, `looks_ms`), and who lets go of what is left
 * (`left`). The names are for people: a reader that comes while they are written may see a mixed
 * one, never one without an end. */
struct turn {
    _Atomic bool taken, given_up;
    _Atomic int left; /* enum left */
    struct turn_holds holds;
    bool is_left; /* what it holds is, once it is gone: it was killed for levels that hang, */
    char left_for[TURNS_TEXT_BYTES]; /* these */
    _Atomic int64_t last_ms;
    _Atomic int64_t looks_ms; /* since when it looks at levels[0], 0: it does not */
    _Atomic size_t n;         /* levels that it touches */
    _Atomic uint64_t levels[TURN_LEVELS_MAX];
    char names[TURN_LEVELS_MAX][TURN_NAME_BYTES];
};

struct turns {
    _Atomic size_t end;                        /* places from here on were never taken */
    _Atomic uint64_t looked[TURNS_LOOKED_MAX]; /* levels at which a look has come back */
    _Atomic uint64_t said[TURNS_SAID]; /* 40 bits of a sentence's hash, 24 of when, in seconds */
    struct turn each[TURNS_MAX];
};

/* Of what a process holds. */
enum left { LEFT_NOTHING, LEFT_TO_ALL, LEFT_TO_ONE /* who lets go of it */ };

/* FNV-1a, 64 bits: two levels with one hash would only wait for each other. */
static uint64_t hash(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

/* Pages that nobody writes to are not there. */
struct turns *turns_new(void) {
    void *p =
        mmap(NULL, sizeof(struct turns), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

struct turn *turns_take(struct turns *t) {
    for (size_t i = 0; i < TURNS_MAX; i++) {
        struct turn *turn = &t->each[i];
        if (turn->taken || turn->left != LEFT_NOTHING)
            continue;
        turn->n = 0;
        turn->holds.n = 0;
        turn->is_left = false;
        turn->looks_ms = 0;
        turn->given_up = false;
        turn->last_ms = clock_mono_ms();
        turn->taken = true;
        if (t->end <= i)
            t->end = i + 1;
        return turn;
    }
    return NULL;
}

/* It comes back no more. What it holds is told of once. */
static void leave(struct turn *turn) {
    if (turn->is_left && turn->holds.n)
        turn->left = LEFT_TO_ALL;
    turn->is_left = false;
}

void turns_drop(struct turn *turn) {
    leave(turn);
    turn->n = 0;
    turn->looks_ms = 0;
    turn->taken = false;
}

/* ---- in a child ---- */

void turn_now(struct turn *turn) {
    if (turn)
        turn->last_ms = clock_mono_ms();
}

static bool has(const struct turn *turn, uint64_t level) {
    for (size_t i = 0; i < turn->n; i++)
        if (turn->levels[i] == level)
            return true;
    return false;
}

size_t turn_enter(struct turn *turn, const char *const *levels, size_t n) {
    if (!turn)
        return 0;
    size_t before = turn->n;
    for (size_t i = 0; i < n; i++) {
        size_t at = turn->n;
        uint64_t level = hash(levels[i]);
        if (has(turn, level) || at == TURN_LEVELS_MAX)
            continue;
        turn->levels[at] = level;
        snprintf(turn->names[at], TURN_NAME_BYTES, "%s", levels[i]);
        turn->n = at + 1;
    }
    turn_now(turn);
    return before;
}

void turn_leave(struct turn *turn, size_t before) {
    if (!turn)
        return;
    turn->n = before;
    turn_now(turn);
}

void turn_hold(struct turn *turn, const struct turn_holds *holds) {
    if (!turn)
        return;
    turn->holds.n = 0; /* we may be killed in the middle */
    atomic_thread_fence(memory_order_seq_cst);
    memcpy(turn->holds.who, holds->who, sizeof holds->who);
    memcpy(turn->holds.each, holds->each, holds->n * sizeof *holds->each);
    atomic_thread_fence(memory_order_seq_cst);
    turn->holds.n = holds->n;
}

void turn_look(struct turn *turn, const char *level) {
    if (!turn)
        return;
    turn->n = 0;
    turn_enter(turn, &level, 1);
    turn->looks_ms = clock_mono_ms();
}

static void note_looked(struct turns *t, uint64_t level) {
    for (size_t i = 0; i < TURNS_LOOKED_MAX; i++) {
        uint64_t is = 0;
        if (atomic_compare_exchange_strong(&t->looked[i], &is, level) || is == level)
            return;
    }
}

bool turn_looked(struct turns *t, struct turn *turn) {
    if (!turn)
        return true;
    note_looked(t, turn->levels[0]);
    turn->looks_ms = 0;
    turn_leave(turn, 0);
    return !turn->given_up;
}

/* ---- for all ---- */

static int64_t looks_for_ms(const struct turn *turn, int64_t now_ms) {
    int64_t since_ms = turn->looks_ms;
    return turn->taken && since_ms ? now_ms - since_ms : 0;
}

static int64_t hung_ms(const struct turns *t, uint64_t level) {
    int64_t now_ms = clock_mono_ms(), longest_ms = 0;
    for (size_t i = 0; i < t->end; i++) {
        const struct turn *turn = &t->each[i];
        int64_t ms = looks_for_ms(turn, now_ms);
        if (ms >= TURNS_HUNG_MS && ms > longest_ms && turn->levels[0] == level)
            longest_ms = ms;
    }
    return longest_ms;
}

int64_t turns_hung_ms(const struct turns *t, const char *level) {
    return t ? hung_ms(t, hash(level)) : 0;
}

bool turns_any_hung(const struct turns *t) {
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; t && i < t->end; i++)
        if (looks_for_ms(&t->each[i], now_ms) >= TURNS_HUNG_MS)
            return true;
    return false;
}

bool turns_looked_at(const struct turns *t, const char *level) {
    uint64_t h = hash(level);
    for (size_t i = 0; t && i < TURNS_LOOKED_MAX; i++)
        if (t->looked[i] == h)
            return true;
    return !t;
}

bool turns_is_first(struct turns *t, const char *about) {
    enum { SECONDS_BITS = 24, AGAIN_S = 60 };
    const uint64_t mask = (UINT64_C(1) << SECONDS_BITS) - 1;
    if (!t)
        return true;
    uint64_t h = hash(about), now_s = (uint64_t)clock_mono_ms() / 1000 & mask;
    _Atomic uint64_t *place = &t->said[h % TURNS_SAID];
    uint64_t old = *place;
    do {
        if ((old & ~mask) == (h & ~mask) && ((now_s - old) & mask) < AGAIN_S)
            return false;
    } while (!atomic_compare_exchange_weak(place, &old, (h & ~mask) | now_s));
    return true;
}

struct turn *turns_left(struct turns *t, struct turn_holds *holds, char levels[TURNS_TEXT_BYTES]) {
    for (size_t i = 0; t && i < t->end; i++) {
        struct turn *turn = &t->each[i];
        int to_all = LEFT_TO_ALL;
        if (!atomic_compare_exchange_strong(&turn->left, &to_all, LEFT_TO_ONE))
            continue;
        *holds = turn->holds;
        memcpy(levels, turn->left_for, sizeof turn->left_for);
        return turn;
    }
    return NULL;
}

void turns_let_go(struct turn *turn, bool done) {
    turn->left = done ? LEFT_NOTHING : LEFT_TO_ALL;
}

/* ---- in the supervisor ---- */

void turns_look_anew(struct turns *t) {
    for (size_t i = 0; i < TURNS_LOOKED_MAX; i++)
        t->looked[i] = 0;
    for (size_t i = 0; i < t->end; i++)
        if (t->each[i].given_up)
            t->each[i].looks_ms = 0;
}

int64_t turn_last_ms(const struct turn *turn) {
    return turn->last_ms;
}

bool turn_is_in_level(const struct turn *turn) {
    return turn->n > 0;
}

bool turn_is_in_hung(const struct turns *t, const struct turn *turn) {
    for (size_t i = 0; i < turn->n; i++)
        if (hung_ms(t, turn->levels[i]) > 0)
            return true;
    return false;
}

void turn_kill(const struct turns *t, struct turn *turn) {
    turn->is_left = turn_is_in_hung(t, turn);
    if (turn->is_left)
        turn_text(t, turn, turn->left_for);
}

void turn_give_up(struct turn *turn) {
    turn->given_up = true;
    leave(turn);
}

void turn_text(const struct turns *t, const struct turn *turn, char out[TURNS_TEXT_BYTES]) {
    bool hung_alone = turn_is_in_hung(t, turn);
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < turn->n && len < TURNS_TEXT_BYTES; i++) {
        if (hung_alone && hung_ms(t, turn->levels[i]) == 0)
            continue;
        int n = snprintf(out + len, TURNS_TEXT_BYTES - len, "%s%.*s", len ? ", " : "",
                         TURN_NAME_BYTES - 1, turn->names[i]);
        len += n > 0 ? (size_t)n : 0;
    }
}
