/*
 * looker: one process of the worker role that touches each level now and then and nothing else: it
 * asks how full they are, whether they are the right ones and lie apart from each other, and says
 * so in Redis. A level that does not answer is waited for here (base/turns): the others leave it
 * alone meanwhile, and the supervisor has another looker take our place. When the level answers, we
 * wake who waits for it, and end.
 */
#ifndef TIERD_WORKER_LOOKER_H
#define TIERD_WORKER_LOOKER_H

#include "worker/worker.h"

/* Looks until SIGTERM or SIGINT, or until it was replaced. The exit status of the process. */
int looker_run(const struct worker_options *options);

#endif
