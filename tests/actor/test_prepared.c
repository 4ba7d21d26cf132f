/* Prepared programs are dropped, the longest unused first, where they hold more than the limit; what comes out is the same. */
#include "support.h"

/* Generates 40 tokens with this limit; 0: the default. The tokens, or what the guest says it can't do. */
static void generate(session *s, uint64_t prepared_bytes, int32_t tokens[40]) {
    sp_error err = {0};
    const sp_actor_options options = {.device = s->device,
                                      .models = &s->model,
                                      .n_models = 1,
                                      .on_message = session_hear,
                                      .on_message_user = s,
                                      .limits = {.prepared_bytes = prepared_bytes}};
    sp_actor_close(s->actor);
    assert_int_equal(sp_actor_spawn(s->host, s->module, &options, &s->actor, &err), SP_OK);
    session_greedy(s, 64, 40);
    session_say(s, SP_LLM_COMPLETE, "Once upon a time");
    memcpy(tokens, s->tokens, 40 * sizeof *tokens);
}

static void test_prepared_bytes(void **state) {
    (void)state;
    char *path = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    session *s = session_open(path, "cpu", 1);
    int32_t all[40], few[40];
    generate(s, 0, all);
    assert_int_equal(s->n_tokens, 40);
    generate(s, 400000, few); /* one at a time: the prompt's, then one for each token's shape */
    assert_int_equal(s->n_tokens, 40);
    assert_memory_equal(all, few, sizeof all);
    generate(s, 4096, few); /* none */
    assert_int_equal(s->n_tokens, 0);
    assert_non_null(strstr(s->problem, "the limit is 4096 (--limit-prepared-bytes)"));
    session_close(s);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prepared_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
