#include "job/keys.h"

#include <stdio.h>
#include <string.h>

/* What a type of Redis is called; others are called as Redis does. */
static struct str_view type_words(struct str_view type) {
    return str_is(type, "zset") ? str_view("sorted set") : type;
}

#define NO_JOB "the key %.*s in redis holds something that is no job: rename or delete it"

void keys_no_job(char *out, size_t cap, uint64_t cid) {
    char text[STR_U64_BYTES];
    struct str_view key = str_from_u64(text, cid);
    snprintf(out, cap, NO_JOB, STR_ARG(key));
}

void keys_sentence(char *out, size_t cap, const redis_reply *one) {
    struct str_view key = redis_text(redis_at(one, AMISS_KEY));
    struct str_view is = type_words(redis_text(redis_at(one, AMISS_IS)));
    struct str_view want = type_words(redis_text(redis_at(one, AMISS_WANT)));
    if (redis_len(one) < AMISS_PLACES)
        snprintf(out, cap, "redis refuses '%.*s': %.*s", STR_ARG(key), STR_ARG(is));
    else if (str_is(want, "job"))
        snprintf(out, cap, NO_JOB, STR_ARG(key));
    else
        snprintf(out, cap,
                 "the key %.*s in redis holds a %.*s where tierd keeps a %.*s: rename or delete it",
                 STR_ARG(key), STR_ARG(is), STR_ARG(want));
}

void keys_read(const redis_reply *list, struct keys_amiss *out) {
    out->n = redis_len(list) < AMISS_MOST ? redis_len(list) : AMISS_MOST;
    for (size_t i = 0; i < out->n; i++) {
        const redis_reply *one = redis_at(list, i);
        out->each[i].stops = str_is(redis_text(redis_at(one, AMISS_GRADE)), GRADE_STOPS);
        keys_sentence(out->each[i].text, sizeof out->each[i].text, one);
    }
}

int keys_look(struct queue *q, struct redis *r, struct keys_amiss *out) {
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_KEYS], NULL, 0, NULL, 0, &reply);
    if (rc < 0)
        return rc;
    keys_read(reply, out);
    redis_reply_free(reply);
    return 0;
}

int keys_look_async(struct queue *q, struct redis_async *r, redis_done_fn *done, void *ctx) {
    return redis_async_eval(r, &q->scripts[QUEUE_KEYS], NULL, 0, NULL, 0, done, ctx);
}

void keys_only(struct keys_amiss *out, const char *text) {
    out->n = 1;
    out->each[0].stops = true;
    snprintf(out->each[0].text, sizeof out->each[0].text, "%s", text);
}

const char *keys_stopping(const struct keys_amiss *a) {
    for (size_t i = 0; i < a->n; i++)
        if (a->each[i].stops)
            return a->each[i].text;
    return NULL;
}

static bool has(const struct keys_amiss *a, const char *text) {
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->each[i].text, text) == 0)
            return true;
    return false;
}

void keys_tell(struct keys_amiss *told, const struct keys_amiss *now,
               void (*say)(void *ctx, const char *text, bool stops, bool mended), void *ctx) {
    for (size_t i = 0; i < now->n; i++)
        if (!has(told, now->each[i].text))
            say(ctx, now->each[i].text, now->each[i].stops, false);
    for (size_t i = 0; i < told->n; i++)
        if (!has(now, told->each[i].text))
            say(ctx, told->each[i].text, told->each[i].stops, true);
    *told = *now;
}
