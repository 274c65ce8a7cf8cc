#include "ops/term.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/str.h"

bool term_draws(FILE *out) {
    const char *term = getenv("TERM");
    return isatty(fileno(out)) && !(term && strcmp(term, "dumb") == 0);
}

bool term_colours(FILE *out) {
    const char *no = getenv("NO_COLOR");
    return term_draws(out) && !(no && *no);
}

static bool size(FILE *out, struct winsize *w) {
    return isatty(fileno(out)) && ioctl(fileno(out), TIOCGWINSZ, w) == 0;
}

int term_width(FILE *out) {
    struct winsize w;
    return !size(out, &w) ? 0 : w.ws_col ? w.ws_col : 80;
}

int term_height(FILE *out) {
    struct winsize w;
    return !size(out, &w) ? 0 : w.ws_row ? w.ws_row : 24;
}

void term_frame_begin(FILE *out) {
    fputs("\033[?7l\033[H\033[J", out);
}

void term_frame_end(FILE *out) {
    int rows = term_height(out), columns = term_width(out);
    fputs("\0337", out);
    for (int row = 1; row <= rows; row++) /* the ends of longer lines lie there upon each other */
        fprintf(out, "\033[%d;%dH\033[K", row, columns);
    fputs("\0338\033[?7h", out);
}

void term_paint(FILE *out, enum term_colour colour) {
    static const char *const codes[] = {[TERM_PLAIN] = "0", [TERM_BOLD] = "1",  [TERM_QUIET] = "2",
                                        [TERM_GOOD] = "32", [TERM_WARN] = "33", [TERM_BAD] = "31"};
    if (term_colours(out))
        fprintf(out, "\033[%sm", codes[colour]);
}

/* The length of the next character; 0 when it must not be written. */
static size_t good_len(const char *p) {
    size_t n = str_utf8_len(p, strlen(p));
    unsigned char c = (unsigned char)*p;
    bool c1 = n == 2 && c == 0xC2 && (unsigned char)p[1] < 0xA0;
    return n == 0 || c < 0x20 || c == 0x7F || c1 ? 0 : n;
}

static int characters(const char *text) {
    int n = 0;
    for (const char *p = text; *p; n++) {
        size_t len = good_len(p);
        p += len ? len : 1;
    }
    return n;
}

void term_text(FILE *out, const char *text, int width) {
    int all = characters(text), most = width < 0 ? -width : width;
    int skip = most && all > most ? all - most + 1 : 0;
    if (skip)
        fputc('<', out);
    int i = 0;
    for (const char *p = text; *p; i++) {
        size_t n = good_len(p);
        if (i >= skip && n)
            fwrite(p, 1, n, out);
        else if (i >= skip)
            fputc('?', out);
        p += n ? n : 1;
    }
    if (width < 0 && all < most)
        fprintf(out, "%*s", most - all, "");
}

const char *term_size(uint64_t bytes, char out[TERM_TEXT_BYTES]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = (double)bytes;
    size_t u = 0;
    while (n >= 1000 && u < sizeof units / sizeof *units - 1) {
        n /= 1024;
        u++;
    }
    snprintf(out, TERM_TEXT_BYTES, u && n < 100 ? "%.1f %s" : "%.0f %s", n, units[u]);
    return out;
}

void term_bar(FILE *out, double share, int cells) {
    int full = (int)(share * cells + 0.5);
    if (full < 0)
        full = 0;
    if (full > cells)
        full = cells;
    fputc('[', out);
    for (int i = 0; i < cells; i++)
        fputc(i < full ? '#' : '.', out);
    fputc(']', out);
}
