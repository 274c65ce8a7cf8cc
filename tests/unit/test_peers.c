#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "net/peers.h"

static struct sockaddr_storage address(const char *text) {
    struct sockaddr_storage out = {.ss_family = strchr(text, ':') ? AF_INET6 : AF_INET};
    if (out.ss_family == AF_INET)
        assert_int_equal(inet_pton(AF_INET, text, &((struct sockaddr_in *)&out)->sin_addr), 1);
    else
        assert_int_equal(inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&out)->sin6_addr), 1);
    return out;
}

static int add(struct peers *p, const char *text, struct peer **out) {
    struct sockaddr_storage a = address(text);
    return peers_add(p, &a, out);
}

static void counts_each_address(void **state) {
    (void)state;
    struct peers *p = peers_new(2);
    struct peer *a, *b, *c;
    assert_int_equal(add(p, "192.0.2.1", &a), 0);
    assert_int_equal(add(p, "192.0.2.1", &b), 0);
    assert_int_equal(add(p, "192.0.2.1", &c), -EBUSY);
    assert_int_equal(add(p, "192.0.2.2", &c), 0);
    peers_remove(p, a);
    assert_int_equal(add(p, "192.0.2.1", &a), 0);
    assert_int_equal(add(p, "192.0.2.1", &(struct peer *){NULL}), -EBUSY);
    peers_remove(p, a);
    peers_remove(p, b);
    peers_remove(p, c);
    peers_free(p);
}

static void mapped_is_the_same_address(void **state) {
    (void)state;
    struct peers *p = peers_new(1);
    struct peer *a, *b;
    assert_int_equal(add(p, "::ffff:192.0.2.1", &a), 0);
    assert_int_equal(add(p, "192.0.2.1", &b), -EBUSY);
    assert_int_equal(add(p, "::ffff:192.0.2.2", &b), 0);
    peers_remove(p, a);
    peers_remove(p, b);
    peers_free(p);
}

static void ipv6_counts_by_its_network(void **state) {
    (void)state;
    struct peers *p = peers_new(1);
    struct peer *a, *b;
    assert_int_equal(add(p, "2001:db8:0:1::1", &a), 0);
    assert_int_equal(add(p, "2001:db8:0:1:ffff::2", &b), -EBUSY);
    assert_int_equal(add(p, "2001:db8:0:2::1", &b), 0);
    peers_free(p);
}

static void unix_sockets_are_not_counted(void **state) {
    (void)state;
    struct peers *p = peers_new(1);
    struct sockaddr_storage a = {.ss_family = AF_UNIX};
    struct peer *peer;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(peers_add(p, &a, &peer), 0);
        assert_null(peer);
        peers_remove(p, peer);
    }
    peers_free(p);
}

static void without_a_bound_nothing_is_counted(void **state) {
    (void)state;
    struct peer *peer;
    assert_int_equal(add(NULL, "192.0.2.1", &peer), 0);
    assert_null(peer);
    peers_free(NULL);
}

/* More addresses than buckets, taken out in another order than they came. */
static void many_addresses(void **state) {
    enum { MANY = 10000 };
    (void)state;
    static struct peer *all[MANY];
    struct peers *p = peers_new(1);
    char text[32];
    for (int i = 0; i < MANY; i++) {
        snprintf(text, sizeof text, "10.%d.%d.1", i / 256, i % 256);
        assert_int_equal(add(p, text, &all[i]), 0);
    }
    for (int i = 0; i < MANY; i++)
        peers_remove(p, all[(i * 7919) % MANY]);
    assert_int_equal(add(p, "10.0.0.1", &all[0]), 0);
    peers_remove(p, all[0]);
    peers_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_each_address),
        cmocka_unit_test(mapped_is_the_same_address),
        cmocka_unit_test(ipv6_counts_by_its_network),
        cmocka_unit_test(unix_sockets_are_not_counted),
        cmocka_unit_test(without_a_bound_nothing_is_counted),
        cmocka_unit_test(many_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
