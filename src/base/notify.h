/*
 * notify: tells systemd how the service does (sd_notify(3)), when NOTIFY_SOCKET asks for it.
 */
#ifndef TIERD_BASE_NOTIFY_H
#define TIERD_BASE_NOTIFY_H

#include <stdint.h>

/* Sends e.g. "READY=1". Does nothing without NOTIFY_SOCKET; failures are nobody's problem. */
void notify_send(const char *state);

/* How often the watchdog wants to hear of us, in ms (half of WATCHDOG_USEC); 0: there is none. */
int64_t notify_watchdog_ms(void);

#endif
