#include <inttypes.h>
#include <string.h>
#include <sysexits.h>
#include <yyjson.h>

#include "base/log.h"
#include "job/catalog.h"
#include "job/report.h"
#include "job/watch.h"
#include "ops/ops.h"
#include "ops/term.h"

static void print_fact(const char *name, const char *value) {
    if (!*value)
        return;
    term_paint(stdout, TERM_QUIET);
    printf("  %-12s", name);
    term_paint(stdout, TERM_PLAIN);
    term_text(stdout, value, 0);
    fputc('\n', stdout);
}

static void print_number(const char *name, yyjson_val *object, const char *key) {
    char n[TERM_TEXT_BYTES];
    yyjson_val *v = yyjson_obj_get(object, key);
    if (!yyjson_is_uint(v))
        return;
    snprintf(n, sizeof n, "%" PRIu64, yyjson_get_uint(v));
    print_fact(name, n);
}

static void print_ladder(yyjson_val *j) {
    yyjson_val *l;
    size_t i, max;
    term_paint(stdout, TERM_QUIET);
    printf("  %-12s", "ladder");
    term_paint(stdout, TERM_PLAIN);
    yyjson_arr_foreach(yyjson_obj_get(j, "ladder"), i, max, l) {
        uint64_t most = ops_number(l, "max_use_percent");
        yyjson_val *use = yyjson_obj_get(l, "use_percent");
        if (i)
            printf("\n  %-12s", "");
        fputs(strcmp(ops_text(l, "level"), ops_text(j, "level")) == 0 ? "* " : "  ", stdout);
        term_text(stdout, ops_text(l, "level"), -12);
        printf(" from %" PRIu64, ops_number(l, "min_count"));
        if (yyjson_is_uint(use))
            printf(", %" PRIu64 "%% in use", yyjson_get_uint(use));
        if (most < 100)
            printf(", filled up to %" PRIu64 "%%", most);
    }
    fputc('\n', stdout);
}

static void print_progress(yyjson_val *p) {
    char a[TERM_TEXT_BYTES], b[TERM_TEXT_BYTES], left[STR_SPAN_BYTES];
    uint64_t done = ops_number(p, "done_bytes"), total = ops_number(p, "total_bytes");
    if (!total)
        return;
    term_paint(stdout, TERM_QUIET);
    printf("  %-12s", "progress");
    term_paint(stdout, TERM_PLAIN);
    term_bar(stdout, (double)done / (double)total, 20);
    printf(" %d%%  %s of %s", (int)(100.0 * (double)done / (double)total), term_size(done, a),
           term_size(total, b));
    if (ops_number(p, "bytes_per_s"))
        printf("  %s/s", term_size(ops_number(p, "bytes_per_s"), a));
    if (yyjson_is_uint(yyjson_obj_get(p, "left_ms")))
        printf("  %s left", str_span(ops_number(p, "left_ms"), left));
    fputc('\n', stdout);
}

static void print_events(yyjson_val *events) {
    yyjson_val *e;
    size_t i, max;
    if (yyjson_arr_size(events) == 0)
        print_fact("events", "none within 7 days");
    yyjson_arr_foreach(events, i, max, e) {
        term_paint(stdout, TERM_QUIET);
        printf("  %-10s", i ? "" : "events");
        term_paint(stdout, TERM_PLAIN);
        ops_print_event(e, false);
    }
}

static void print_job(yyjson_val *j) {
    yyjson_val *decision = yyjson_obj_get(j, "decision");
    char changed[QUEUE_SEEN_BYTES];
    term_paint(stdout, TERM_BOLD);
    printf("%s: ", ops_text(j, "cid"));
    term_text(stdout, ops_text(j, "now"), 0);
    term_paint(stdout, TERM_PLAIN);
    fputc('\n', stdout);
    if (!yyjson_obj_get(j, "filename"))
        return; /* there is no such content */
    snprintf(changed, sizeof changed, "%s", ops_text(j, "update_time"));
    changed[strcspn(changed, ".")] = '\0'; /* whole seconds tell a person enough */
    print_fact("file", ops_text(j, "filename"));
    print_fact("is in", ops_text(j, "level"));
    print_fact("path", ops_text(j, "level_path"));
    print_fact("row changed", changed);
    print_number("last count", j, "count");
    print_fact("decision", ops_text(decision, "why"));
    print_fact("rule", ops_text(decision, "rule"));
    print_ladder(j);
    print_fact("state", ops_text(j, "state"));
    print_progress(yyjson_obj_get(j, "progress"));
    if (ops_number(j, "attempts"))
        print_number("attempts", j, "attempts");
    print_fact("last error", ops_text(j, "last_error"));
    print_events(yyjson_obj_get(j, "events"));
}

static int explain(struct ops *o, uint64_t cid) {
    struct content row;
    struct buf b;
    redis_reply *reply;
    struct keys_amiss amiss;
    int found = catalog_content(o->db, cid, &row);
    int rc = found < 0 ? found : watch_explain(&o->queue, o->redis, cid, &reply);
    if (rc < 0)
        return ops_away(rc);
    buf_init(&b, REPORT_BYTES);
    report_job(&b, &(struct job_facts){.cid = cid,
                                       .watched = reply,
                                       .ladder = &o->ladder,
                                       .row = found == 1 ? &row : NULL,
                                       .amiss = ops_amiss(o, &amiss) ? &amiss : NULL,
                                       .policy = &o->policy});
    redis_reply_free(reply);
    yyjson_doc *doc = b.failed ? NULL : yyjson_read(b.data, b.len, 0);
    int status = !doc ? EX_SOFTWARE : found == 1 ? 0 : 1;
    if (!doc)
        log_refusal("the explanation could not be made");
    else if (o->cfg->json)
        printf("%.*s\n", (int)b.len, b.data);
    else
        print_job(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    buf_release(&b);
    return status;
}

int ops_explain(struct ops *o) {
    return ops_each_cid(o, explain);
}
