#include "unit.h"

#include "job/state.h"

static void names_both_ways(void **state) {
    (void)state;
    for (int i = 0; i < JOB_STATES; i++)
        assert_int_equal(job_state_parse(str_view(job_state_name((enum job_state)i))), i);
    assert_int_equal(job_state_parse(str_view("Queued")), JOB_STATE_NONE);
    assert_int_equal(job_state_parse(str_view("queued ")), JOB_STATE_NONE);
}

static void phases(void **state) {
    (void)state;
    assert_int_equal(job_state_phase(JOB_STATE_NONE), JOB_PHASE_MOVE);
    assert_int_equal(job_state_phase(JOB_STATE_QUEUED), JOB_PHASE_MOVE);
    assert_int_equal(job_state_phase(JOB_STATE_CLAIMED), JOB_PHASE_MOVE);
    assert_int_equal(job_state_phase(JOB_STATE_BACKOFF), JOB_PHASE_MOVE);
    assert_int_equal(job_state_phase(JOB_STATE_DONE), JOB_PHASE_COMMIT);
    assert_int_equal(job_state_phase(JOB_STATE_COMMITTED), JOB_PHASE_RETIRE);
    assert_int_equal(job_state_phase(JOB_STATE_CANCELLED), JOB_PHASE_RETIRE);
    assert_int_equal(job_state_phase(JOB_STATE_DEAD), JOB_PHASE_ENDED);
}

/* PROTOCOL.md: what must never happen, whoever asks. */
static void forbidden(void **state) {
    (void)state;
    assert_false(job_state_may(JOB_STATE_QUEUED, JOB_STATE_DONE));       /* without a claim */
    assert_false(job_state_may(JOB_STATE_CLAIMED, JOB_STATE_COMMITTED)); /* without done */
    assert_false(job_state_may(JOB_STATE_DONE, JOB_STATE_NONE));         /* without the commit */
    assert_false(job_state_may(JOB_STATE_DONE, JOB_STATE_CANCELLED));
    assert_false(job_state_may(JOB_STATE_COMMITTED, JOB_STATE_DONE));
    assert_false(job_state_may(JOB_STATE_DEAD, JOB_STATE_CLAIMED)); /* without a post */
    assert_false(job_state_may(JOB_STATE_CONFLICT, JOB_STATE_DONE));
    assert_true(job_state_may(JOB_STATE_DONE, JOB_STATE_COMMITTED));
    assert_true(job_state_may(JOB_STATE_CLAIMED, JOB_STATE_BACKOFF));
    assert_true(job_state_may(JOB_STATE_DEAD, JOB_STATE_QUEUED));
}

/* From every state a job can end, so none is stuck for ever. */
static void no_dead_ends(void **state) {
    (void)state;
    for (int from = 0; from < JOB_STATES; from++) {
        unsigned reached = 1U << from, before;
        do {
            before = reached;
            for (int a = 0; a < JOB_STATES; a++)
                for (int b = 0; b < JOB_STATES; b++)
                    if ((reached & 1U << a) && job_state_may((enum job_state)a, (enum job_state)b))
                        reached |= 1U << b;
        } while (reached != before);
        assert_true(reached & 1U << JOB_STATE_NONE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_both_ways),
        cmocka_unit_test(phases),
        cmocka_unit_test(forbidden),
        cmocka_unit_test(no_dead_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
