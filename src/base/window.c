#include "base/window.h"

#include <errno.h>
#include <stdbool.h>

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
