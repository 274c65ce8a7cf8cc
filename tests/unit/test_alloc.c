/* The cache in front of the libc's allocator, on an allocator that counts. */
#include "base/alloc.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

static size_t taken, given_back;

void *__real_malloc(size_t n) {
    taken++;
    return malloc(n);
}

void *__real_calloc(size_t n, size_t size) {
    size_t bytes;
    taken++;
    return __builtin_mul_overflow(n, size, &bytes) ? NULL : calloc(n, size);
}

void *__real_realloc(void *p, size_t n) {
    return realloc(p, n);
}

void __real_free(void *p) {
    given_back += p != NULL;
    free(p);
}

static void test_every_size_fits_and_comes_back(void **state) {
    (void)state;
    for (size_t n = 0; n < 140000; n += n < 300 ? 1 : 997) {
        char *p = __wrap_malloc(n);
        assert_non_null(p);
        memset(p, 0x5a, n);
        assert_true(malloc_usable_size(p) >= n);
        __wrap_free(p);
        size_t before = taken;
        char *again = __wrap_malloc(n);
        if (n > 0 && n <= 128 * 1024) {
            assert_ptr_equal(again, p);
            assert_int_equal(taken, before);
        }
        __wrap_free(again);
    }
}

static void test_calloc_is_zero_even_when_reused(void **state) {
    (void)state;
    char *p = __wrap_malloc(1000);
    memset(p, 0xff, 1000);
    __wrap_free(p);
    char *q = __wrap_calloc(10, 100);
    assert_ptr_equal(p, q);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(q[i], 0);
    __wrap_free(q);
    volatile size_t many = SIZE_MAX / 2; /* the product does not fit */
    assert_null(__wrap_calloc(many, 4));
}

static void test_realloc_keeps_what_was_written(void **state) {
    (void)state;
    unsigned char *p = NULL;
    size_t len = 0;
    for (size_t n = 1; n < 400000; n = n * 3 / 2 + 1) {
        p = __wrap_realloc(p, n);
        for (size_t i = 0; i < len; i++)
            assert_int_equal(p[i], i % 251);
        for (; len < n; len++)
            p[len] = (unsigned char)(len % 251);
    }
    p = __wrap_realloc(p, 40);
    for (size_t i = 0; i < 40; i++)
        assert_int_equal(p[i], i % 251);
    __wrap_free(p);
    __wrap_free(NULL);
}

static void test_it_is_bounded_and_takes_foreign_pieces(void **state) {
    enum { PIECES = 64, BYTES = 65536 }; /* four times the bound */
    static void *p[PIECES];
    (void)state;
    for (size_t i = 0; i < PIECES; i++)
        p[i] = __wrap_malloc(BYTES);
    given_back = 0;
    for (size_t i = 0; i < PIECES; i++)
        __wrap_free(p[i]);
    assert_true(given_back >= PIECES - 16);
    void *foreign = malloc(1001); /* of no class: not cached, and nobody else gets it too small */
    given_back = 0;
    __wrap_free(foreign);
    assert_int_equal(given_back, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_size_fits_and_comes_back),
        cmocka_unit_test(test_calloc_is_zero_even_when_reused),
        cmocka_unit_test(test_realloc_keeps_what_was_written),
        cmocka_unit_test(test_it_is_bounded_and_takes_foreign_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
