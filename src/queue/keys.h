/* keys: what C and the scripts of Redis (queue/lua) both name; pack.pl reads it too. */
#ifndef TIERD_QUEUE_KEYS_H
#define TIERD_QUEUE_KEYS_H

/* JOB_JSON_BYTES as an argument: what is longer is no job, and must not be carried about. */
#define JSON_BYTES "16384"

#endif
