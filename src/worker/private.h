/*
 * private: the names that tierd makes for itself beside a content, and what killed workers left
 * under them.
 *
 *   .tierd-tmp.<cid>   a copy being made, where the file system has no O_TMPFILE
 *   .tierd-old.<cid>   a spare copy on its way out, see retire
 *
 * They are the same for every worker, so whoever comes next finds them; whoever gets the flock(2)
 * of the file takes it over. Functions return 0 or -errno.
 */
#ifndef TIERD_WORKER_PRIVATE_H
#define TIERD_WORKER_PRIVATE_H

#include <stdint.h>
#include <sys/stat.h>

enum { PRIVATE_NAME_BYTES = 40 }; /* the prefix, a word and 20 digits */

void private_temp_name(char out[PRIVATE_NAME_BYTES], uint64_t cid);
void private_old_name(char out[PRIVATE_NAME_BYTES], uint64_t cid);

/* Makes `.tierd-tmp.<cid>` anew, empty, mode 0600, locked, and opens it for reading and writing;
 * one that a killed worker left is removed before. *fd. -EBUSY: its maker lives, or cannot be known
 * to be dead. */
int private_make_temp(int dir, uint64_t cid, int *fd);

/* Removes a left `.tierd-tmp.<cid>`: an unpublished copy, or a second name of the published file
 * `known` (may be NULL), whose lock the caller holds. 0 also when there is none; -EBUSY as above.
 */
int private_drop_temp(int dir, uint64_t cid, const struct stat *known);

/* Gives what stands under `.tierd-old.<cid>` its name `leaf` back, durably. -ENOENT: there is none;
 * -EEXIST: the name is taken; -EBUSY: a living worker is at it. */
int private_restore_old(int dir, uint64_t cid, const char *leaf);

#endif
