/* What every unit test includes, in the order that cmocka asks for. */
#ifndef TIERD_TESTS_UNIT_H
#define TIERD_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
