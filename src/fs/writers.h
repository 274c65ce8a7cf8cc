/*
 * writers: whether somebody can write to a file at this moment. What is written by somebody who
 * opened it before it was moved would go into a file that has no name any more.
 *
 * Not seen, by either: writers on other hosts; those who came to the file through another mount
 * that shows it (what lies under a file system in user space); those of other users, where leases
 * cannot tell and we may not look.
 */
#ifndef TIERD_FS_WRITERS_H
#define TIERD_FS_WRITERS_H

#include <stdbool.h>

/* Whether the regular file `fd`, which we have open for reading alone, is open for writing or
 * mapped so: 1, 0, or -1 when this file system or user cannot tell. By a read lease, which is
 * refused then (fcntl(2), F_SETLEASE): one system call. */
int writers_by_lease(int fd);

/* The same; where leases cannot tell, by what the processes of this host have open and mapped
 * (proc(5), /proc/<pid>/fd and maps), as far as we may see it. */
bool writers_seen(int fd);

#endif
