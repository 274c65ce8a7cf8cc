/*
 * clock: the clocks tierd reads, in one place so that each use names which one it means.
 */
#ifndef TIERD_BASE_CLOCK_H
#define TIERD_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC: timers and deadlines of a process (clock_gettime(2)). */
int64_t clock_mono_ms(void);

/* The same in microseconds: rates, and what the service manager compares with its own clock. */
int64_t clock_mono_us(void);

/*
 * Milliseconds of CLOCK_BOOTTIME, which goes on while the machine is suspended. Leases are counted
 * on it: a worker that slept through its lease must know.
 */
int64_t clock_boot_ms(void);

/* Microseconds of CLOCK_REALTIME since the epoch: what people read in logs, never for deadlines. */
int64_t clock_wall_us(void);

#endif
