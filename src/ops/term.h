/*
 * term: what commands write for people: colours only on a terminal and not with NO_COLOR
 * (no-color.org), numbers in words, bars, and names that cannot drive the terminal.
 */
#ifndef TIERD_OPS_TERM_H
#define TIERD_OPS_TERM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { TERM_TEXT_BYTES = 32 };

enum term_colour { TERM_PLAIN, TERM_BOLD, TERM_QUIET, TERM_GOOD, TERM_WARN, TERM_BAD };

/* Whether `out` is a terminal that can be drawn on anew, and whether in colours. */
bool term_draws(FILE *out);
bool term_colours(FILE *out);

/* The width and height of the terminal `out` is; 0 when it is none: as wide and high as need be. */
int term_width(FILE *out);
int term_height(FILE *out);

/* Begins a picture that takes the place of the last one, and ends it. In between lines are cut at
 * the terminal's last column: one that wrapped would push the first ones out. */
void term_frame_begin(FILE *out);
void term_frame_end(FILE *out);

/* Begins a colour, or ends it with TERM_PLAIN; nothing where there are none. */
void term_paint(FILE *out, enum term_colour colour);

/* Writes `text` with control characters and what is not UTF-8 replaced by '?', at most `width`
 * characters (longer ones lose their beginning), filled with blanks up to `width` when it is < 0
 * (then -width). 0: as long as it is. */
void term_text(FILE *out, const char *text, int width);

/* "12.3 MiB", "340 B". */
const char *term_size(uint64_t bytes, char out[TERM_TEXT_BYTES]);

/* "[####......]" of `cells` cells. */
void term_bar(FILE *out, double share, int cells);

#endif
