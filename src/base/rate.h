/*
 * rate: a bandwidth shared by all children of a supervisor: a virtual clock in shared memory that
 * says when the next byte may go (the leaky bucket as a meter, ITU-T I.371, "virtual scheduling").
 *
 * rate_new before the fork -> rate_take in each child. A child that dies holds nothing.
 */
#ifndef TIERD_BASE_RATE_H
#define TIERD_BASE_RATE_H

#include <stdint.h>

struct rate;

/* A rate in memory that children share, without a limit yet. NULL when out of memory. */
struct rate *rate_new(void);

/* Sets the limit in bytes a second; 0: none. */
void rate_set(struct rate *r, uint64_t bytes_per_s);

/* Notes that `bytes` were moved; the milliseconds to wait before more are. */
int64_t rate_take(struct rate *r, uint64_t bytes);

/* How many bytes should be moved at once, so that waits stay about a tenth of a second. */
uint64_t rate_chunk_bytes(struct rate *r, uint64_t least, uint64_t most);

#endif
