/*
 * alloc: a bounded cache of freed memory in front of the libc's allocator, for the musl build.
 *
 * musl gives memory back to the kernel as soon as the last piece of a group is free. A server whose
 * libraries (hiredis, Connector/C) allocate for each answer and free all of it afterwards then maps
 * and unmaps several times for each batch, and an munmap(2) interrupts the other processors: half
 * of the time of a post went there. Here freed pieces of common sizes wait for the next taker
 * instead.
 *
 * There is nothing to call: the linker sends malloc, calloc, realloc and free of the whole program
 * here (ld(1), --wrap), and what the cache does not hold comes from the libc as before. Sizes are
 * rounded up to a class, so that a piece's usable size says by itself which class it is of; pieces
 * from elsewhere (aligned_alloc) fit in or go back to the libc. No locks: every process of tierd is
 * single-threaded.
 */
#ifndef TIERD_BASE_ALLOC_H
#define TIERD_BASE_ALLOC_H

#include <stddef.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

#endif
