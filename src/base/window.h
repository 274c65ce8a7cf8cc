/*
 * window: a part of the day, such as 01:00-06:00, in the local time of the machine. One that ends
 * before it begins passes midnight. Pure but for the time zone (tzset(3)).
 */
#ifndef TIERD_BASE_WINDOW_H
#define TIERD_BASE_WINDOW_H

#include <stdint.h>
#include <time.h>

struct window {
    int from_min, to_min; /* minutes since midnight; both 0: the whole day */
};

/* Reads "HH:MM-HH:MM". 0, or -EINVAL (not of that form, or from and to are the same). */
int window_parse(const char *text, struct window *out);

/* Milliseconds from `now` until the window opens; 0 while it is open. */
int64_t window_opens_ms(const struct window *w, time_t now);

enum { WINDOW_WHY_BYTES = 256 };

/*
 * Whether the time zone is what somebody meant: the libc takes what it does not know for UTC, in
 * silence. 0; -ENOENT: TZ names one that this machine does not have; -ENODATA: nothing says which
 * one (no TZ, no /etc/localtime), so it is UTC. With a sentence in `why`. tzset(3), environ(7).
 */
int window_check_zone(char why[WINDOW_WHY_BYTES]);

#endif
