/*
 * notify: tells systemd how the service does (sd_notify(3)), when NOTIFY_SOCKET asks for it.
 */
#ifndef TIERD_BASE_NOTIFY_H
#define TIERD_BASE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/* Sends e.g. "READY=1". Does nothing without NOTIFY_SOCKET; failures are nobody's problem. False: a
 * manager that does not read was waited for in vain, for a moment. */
bool notify_send(const char *state);

/* Tells that settings are read again from now on; "READY=1" ends that (sd_notify(3)). */
void notify_reloading(void);

/* Tells that we are stopping and will be gone within `within_ms`, however short the unit's own
 * time-out is. */
void notify_stopping(int64_t within_ms);

/* How often the watchdog wants to hear of us, in ms (half of WATCHDOG_USEC); 0: there is none, or
 * it is another process's (WATCHDOG_PID). */
int64_t notify_watchdog_ms(void);

#endif
