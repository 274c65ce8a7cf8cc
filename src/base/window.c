#include "base/window.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DAY_S = 24 * 60 * 60 };

/* HH:MM as minutes; -1 when it is not. */
static int minutes(const char *p) {
    for (int i = 0; i < 5; i++)
        if (i == 2 ? p[i] != ':' : p[i] < '0' || p[i] > '9')
            return -1;
    int hour = (p[0] - '0') * 10 + p[1] - '0', minute = (p[3] - '0') * 10 + p[4] - '0';
    return hour < 24 && minute < 60 ? hour * 60 + minute : -1;
}

int window_parse(const char *text, struct window *out) {
    int from = minutes(text);
    int to = from >= 0 && text[5] == '-' ? minutes(text + 6) : -1;
    if (to < 0 || text[11] != '\0' || from == to)
        return -EINVAL;
    *out = (struct window){from, to};
    return 0;
}

int64_t window_opens_ms(const struct window *w, time_t now) {
    struct tm tm;
    if (w->from_min == w->to_min || !localtime_r(&now, &tm))
        return 0;
    int at_s = (tm.tm_hour * 60 + tm.tm_min) * 60 + tm.tm_sec;
    int from_s = w->from_min * 60, to_s = w->to_min * 60;
    bool open = from_s < to_s ? at_s >= from_s && at_s < to_s : at_s >= from_s || at_s < to_s;
    int left_s = from_s - at_s + (from_s < at_s ? DAY_S : 0);
    return open ? 0 : (int64_t)left_s * 1000;
}

/* ---- the time zone ---- */

/* "CET-1CEST,...", "<+03>-3": a name, then how far it is from UTC (POSIX, XBD 8.3). */
static bool is_rule(const char *zone) {
    const char *p = zone;
    if (*p == '<')
        p = strchr(p, '>') ? strchr(p, '>') + 1 : p;
    else
        while (isalpha((unsigned char)*p))
            p++;
    size_t name = (size_t)(p - zone);
    p += *p == '+' || *p == '-';
    return name >= 3 && isdigit((unsigned char)*p);
}

static bool is_file(const char *zone) {
    static const char *const folders[] = {"/usr/share/zoneinfo", "/share/zoneinfo",
                                          "/etc/zoneinfo"}; /* those of musl and glibc */
    char path[PATH_MAX];
    if (*zone == '/')
        return access(zone, R_OK) == 0;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folders[i], zone) < sizeof path &&
            access(path, R_OK) == 0)
            return true;
    return false;
}

int window_check_zone(char why[WINDOW_WHY_BYTES]) {
    const char *zone = getenv("TZ");
    if (!zone && access("/etc/localtime", R_OK) < 0) {
        snprintf(why, WINDOW_WHY_BYTES,
                 "the window is in UTC: TZ is not set and there is no /etc/localtime");
        return -ENODATA;
    }
    if (!zone || !*zone) /* an empty one is UTC, said on purpose */
        return 0;
    zone += *zone == ':';
    bool is_utc = strcmp(zone, "UTC") == 0 || strcmp(zone, "GMT") == 0;
    if (is_utc || is_rule(zone) || is_file(zone))
        return 0;
    snprintf(why, WINDOW_WHY_BYTES,
             "the time zone '%.64s' of TZ is not known on this machine (/usr/share/zoneinfo)",
             zone);
    return -ENOENT;
}
