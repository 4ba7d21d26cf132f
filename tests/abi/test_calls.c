/*
 * What imports do where guests of the other tests do not go: regions and programs at their limits, runs that are submitted, what is restored and
 * shared. The calls are made from outside, on an actor whose guest is only a memory.
 */
#include "abi_test.h"

#include <time.h>

static sp_actor *spawn(const char *device_name) {
    return new_actor("(module (memory (export \"memory\") 64) (func (export \"sp_step\") (result i32) i32.const 0))", device_name, NULL);
}

/* ---- regions ---- */

static void test_regions(void **state) {
    (void)state;
    sp_actor *a = spawn("cpu");
    assert_int_equal(sp_abi_region_open(a, 0, 4096, &said), 0);
    assert_int_equal(sp_abi_region_open(a, 4096, 4096, &said), 1);
    int64_t program = load_neg(a, 65536);
    bind_all(a, program, 0, 0, 2048, 1024);
    assert_int_equal(sp_abi_region_close(a, 1, &said), 0); /* which no program is bound to */
    SAYS(sp_abi_region_close(a, 0, &said), SP_ERR_STATE, "is bound to program 0");
    SAYS(sp_abi_region_restore(a, 0, 8192, 4096, &said), SP_ERR_FORMAT, "can't be");
    SAYS(sp_abi_region_restore(a, 1, 0, 4096, &said), SP_ERR_FORMAT, "overlap");
    SAYS(sp_abi_region_restore(a, 1, 8192, 0, &said), SP_ERR_FORMAT, "can't be");
    SAYS(sp_abi_region_restore(a, 1, 8192, 1u << 30, &said), SP_ERR_FORMAT, "can't be");
    SAYS(sp_abi_region_restore(a, 1, 8193, 4096, &said), SP_ERR_UNSUPPORTED, "start and end at a multiple");
    SAYS(sp_abi_region_restore(a, 1, 8192, 4097, &said), SP_ERR_UNSUPPORTED, "start and end at a multiple");
    SAYS(sp_abi_region_restore(a, a->limits.regions, 8192, 4096, &said), SP_ERR_LIMIT, "regions");
    a->limits.shared_bytes = 8000;
    SAYS(sp_abi_region_restore(a, 1, 8192, 4096, &said), SP_ERR_LIMIT, "shared");
    sp_actor_close(a);
}

/* Where a device is ahead of the guest's pages: parts that were synced are taken out, wherever they lie. */
static void test_ahead(void **state) {
    (void)state;
    sp_actor *a = spawn("discrete");
    assert_int_equal(sp_abi_region_open(a, 0, 65536, &said), 0);
    sp_region *r = &a->regions[0];
    for (uint32_t i = 0; i < 20; i++) {
        SAYS(sp_abi_mark_ahead(r, 1024 * i, 1024 * i + 512, &said), SP_OK, "");
    }
    SAYS(sp_abi_mark_ahead(r, 40000, 40000, &said), SP_OK, "");
    assert_int_equal(r->n_ahead, 20);
    assert_int_equal(sp_abi_region_sync(a, 0, 128, 128, SP_SYNC_FROM_DEVICE, &said), 0);
    assert_true(r->n_ahead == 21 && r->ahead[0].to == 128 && r->ahead[1].from == 256 && r->ahead[1].to == 512);
    assert_int_equal(sp_abi_region_sync(a, 0, 200, 900, SP_SYNC_TO_DEVICE, &said), 0);
    assert_true(r->n_ahead == 20 && r->ahead[0].to == 128 && r->ahead[1].from == 1100);
    SAYS(sp_abi_region_sync(a, 0, 65536, 1, SP_SYNC_TO_DEVICE, &said), SP_ERR_RANGE, "");
    SAYS(sp_abi_mark_ahead(r, 1200, 1300, &said), SP_OK, ""); /* within one */
    assert_true(r->n_ahead == 20 && r->ahead[1].to == 1536);
    SAYS(sp_abi_bring_back(a, &said), SP_OK, "");
    assert_int_equal(r->n_ahead, 0);
    SAYS(sp_abi_mark_ahead(r, 65536, 65600, &said), SP_OK, ""); /* which can't be: it is an error, and no copy */
    SAYS(sp_abi_bring_back(a, &said), SP_ERR_RANGE, "");
    sp_actor_close(a);
}

static void test_shared(void **state) {
    (void)state;
    sp_actor *a = spawn("discrete"), *same = spawn("discrete"), *other = spawn("cpu");
    assert_int_equal(sp_abi_region_open(a, 0, 4096, &said), 0);
    SAYS(sp_abi_region_share(other, 0, a, &said), SP_OK, "");
    SAYS(sp_abi_region_share(same, 0, a, &said), SP_OK, "");
    SAYS(sp_abi_region_share(same, 0, a, &said), SP_ERR_FORMAT, "can't be");
    SAYS(sp_abi_region_need(same, 0, &said), SP_OK, "");
    sp_actor *third = spawn("cpu");
    SAYS(sp_abi_region_share(third, 0, other, &said), SP_OK, ""); /* which has no memory of the device's yet */
    third->regions[0].start = 1;
    SAYS(sp_abi_region_sync(third, 0, 0, 16, SP_SYNC_TO_DEVICE, &said), SP_ERR_ARGUMENT, "");
    assert_null(third->regions[0].memory);
    sp_actor_close(third);
    int64_t program = load_neg(a, 65536);
    bind_all(a, program, 0, 0, 2048, 1024);
    SAYS(sp_abi_program_share(same, 0, &a->programs[program], &said), SP_OK, "");
    SAYS(sp_abi_program_share(same, same->limits.programs, &a->programs[program], &said), SP_ERR_LIMIT, "programs");
    sp_actor *empty = spawn("cpu"); /* without the regions that the program is bound to */
    SAYS(sp_abi_program_share(empty, 0, &a->programs[program], &said), SP_ERR_FORMAT, "which can't be");
    sp_actor_close(empty);
    sp_actor_close(a); /* the program lives on */
    SAYS(sp_abi_program_run(same, 0, put_symbols(same, 4), 1, false, &said), SP_OK, "");
    sp_actor_close(same);
    sp_actor_close(other);
}

/* ---- programs ---- */

static void test_restored(void **state) {
    (void)state;
    sp_actor *a = spawn("cpu");
    assert_int_equal(sp_abi_region_open(a, 0, 4096, &said), 0);
    uint32_t size;
    sp_graph g;
    const void *bytes = build_neg(&g, &size);
    const sp_bound_slot good[] = {{.region = -1}, {.region = 0, .offset = 64, .length = 64}};
    const sp_bound_slot bad[][2] = {{{.region = -2}, {.region = -1}},
                                    {{.region = -1}, {.region = (int32_t)a->limits.regions}},
                                    {{.region = 1}, {.region = -1}},
                                    {{.region = 0, .offset = 4096, .length = 1}, {.region = -1}}};
    SAYS(sp_abi_program_restore(a, 0, bytes, size, good, 2, &said), SP_OK, "");
    SAYS(sp_abi_program_restore(a, 0, bytes, size, good, 2, &said), SP_ERR_FORMAT, "is there twice");
    SAYS(sp_abi_program_restore(a, 1, bytes, size, good, 1, &said), SP_ERR_FORMAT, "has 2 slots, not 1");
    for (int i = 0; i < 4; i++) {
        SAYS(sp_abi_program_restore(a, 1, bytes, size, bad[i], 2, &said), SP_ERR_FORMAT, "which can't be");
    }
    SAYS(sp_abi_program_restore(a, 1, bytes, size - 8, good, 2, &said), SP_ERR_FORMAT, "");
    SAYS(sp_abi_program_restore(a, a->limits.programs, bytes, size, good, 2, &said), SP_ERR_LIMIT, "programs");
    SAYS(sp_abi_program_restore(a, 1, bytes, a->limits.program_bytes + 1, good, 2, &said), SP_ERR_LIMIT, "program");
    sp_graph_free(&g);
    sp_actor_close(a);
}

static void test_weights(void **state) {
    (void)state;
    sp_actor *a = new_actor("(module (memory (export \"memory\") 64) (func (export \"sp_step\") (result i32) i32.const 0))", "cpu", with.pocket);
    sp_actor *without = spawn("cpu");
    sp_graph g;
    uint32_t size;
    sp_graph_init(&g);
    sp_graph_weight(&g, "no such weight");
    const void *bytes = sp_graph_bytes(&g, &size);
    memcpy(sp_memory_base(a->memory), bytes, size);
    memcpy(sp_memory_base(without->memory), bytes, size);
    SAYS(sp_abi_program_load(a, 0, size, &said), SP_ERR_NOT_FOUND, "no such weight");
    SAYS(sp_abi_program_load(without, 0, size, &said), SP_ERR_NOT_FOUND, "no such weight");
    sp_graph_free(&g);
    sp_actor_close(without);
    sp_actor_close(a);
}

static void test_submitted(void **state) {
    (void)state;
    sp_actor *a = spawn("cpu");
    assert_int_equal(sp_abi_region_open(a, 0, 65536, &said), 0);
    int64_t program = load_neg(a, 65536), second = load_neg(a, 65536);
    bind_all(a, program, 0, 0, 8192, 4096);
    bind_all(a, second, 0, 0, 8192, 4096);
    SAYS(sp_abi_program_run(a, 0, UINT32_MAX - 4, 1, true, &said), SP_ERR_RANGE, "not inside the guest's memory");
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 1), 1, true, &said), SP_OK, "");
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 1), 2, true, &said), SP_ERR_ARGUMENT, "symbol");
    for (uint64_t n = 2; n <= SP_CACHED_EXECUTABLES; n++) {
        SAYS(sp_abi_program_run(a, 0, put_symbols(a, n), 1, true, &said), SP_OK, "");
    }
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 17), 1, false, &said), SP_ERR_LIMIT, "too many different runs of one program in one step");
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 1), 1, true, &said), SP_ERR_LIMIT, "runs were submitted in this step");
    SAYS(sp_abi_program_close(a, 0, &said), SP_ERR_STATE, "a run was submitted");
    SAYS(sp_abi_complete(a, &said), SP_OK, "");
    /* What was not used for longest goes first; what is submitted stays. */
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 17), 1, true, &said), SP_OK, "");
    SAYS(sp_abi_program_run(a, 1, put_symbols(a, 3), 1, false, &said), SP_OK, "");
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 3), 1, false, &said), SP_OK, "");
    SAYS(sp_abi_program_run(a, 1, put_symbols(a, 4), 1, false, &said), SP_OK, "");
    const uint64_t each = a->programs[1].prepared[0].bytes;
    assert_true(each > 0);
    a->limits.prepared_bytes = 2 * each + each / 2;
    SAYS(sp_abi_program_run(a, 1, put_symbols(a, 5), 1, false, &said), SP_OK, "");
    assert_true(a->prepared_bytes <= a->limits.prepared_bytes);
    a->limits.prepared_bytes = each / 2;
    SAYS(sp_abi_program_run(a, 1, put_symbols(a, 6), 1, false, &said), SP_ERR_LIMIT, "prepared");
    SAYS(sp_abi_complete(a, &said), SP_OK, "");
    sp_actor_close(a);
}

/* What a run writes on a device with memory of its own is known in whole granules of 4,096 bytes, but for the slot's ends; where it lies in too many
 * places, all of the slot is. */
static void test_written(void **state) {
    (void)state;
    sp_actor *a = spawn("discrete");
    assert_int_equal(sp_abi_region_open(a, 0, 65536, &said), 0);
    int64_t program = load_neg(a, 65536);
    bind_all(a, program, 0, 0, 4128, 4096);
    sp_region *r = &a->regions[0];
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 4), 1, false, &said), SP_OK, "");
    assert_true(r->n_ahead == 1 && r->ahead[0].from == 4128 && r->ahead[0].to == 8192);
    for (uint32_t i = 0; i < 2100; i++) {
        SAYS(sp_abi_mark_ahead(r, 16384 + 4 * i, 16384 + 4 * i + 1, &said), SP_OK, "");
    }
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 4), 1, false, &said), SP_OK, "");
    assert_true(r->ahead[0].from == 4128 && r->ahead[0].to == 4128 + 4096);
    bind_all(a, program, 0, 0, 8192, 4096);
    SAYS(sp_abi_program_run(a, 0, put_symbols(a, 4), 1, false, &said), SP_OK, "");
    assert_true(r->ahead[0].from == 4128 && r->ahead[0].to == 8192 + 4096);
    SAYS(sp_abi_bring_back(a, &said), SP_OK, "");
    sp_actor_close(a);
}

/* A guest whose run took more than twice the time that it may have is ended, although the run came to its end. */
static void test_overrun(void **state) {
    (void)state;
    sp_actor *a = new_actor("(module (import \"samepage\" \"program_run\" (func $run (param i32 i32 i32) (result i32)))"
                            "(memory (export \"memory\") 512)"
                            "(func (export \"sp_step\") (result i32) (call $run (i32.const 0) (i32.const 0) (i32.const 0))))",
                            "cpu", NULL);
    enum { SIDE = 1024 };
    const uint32_t bytes = SIDE * SIDE * 4;
    assert_int_equal(sp_abi_region_open(a, 0, 3 * bytes, &said), 0);
    sp_graph g;
    uint32_t size;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor x = sp_graph_memory_2d(&g, "x", in, SP_TYPE_F32, sp_dim(SIDE), sp_dim(SIDE), sp_dim(0)),
              y = sp_graph_memory_2d(&g, "y", in, SP_TYPE_F32, sp_dim(SIDE), sp_dim(SIDE), sp_dim(bytes)),
              z = sp_graph_memory_2d(&g, "z", out, SP_TYPE_F32, sp_dim(SIDE), sp_dim(SIDE), sp_dim(0));
    sp_graph_into(&g, sp_mul_mat(&g, x, y), z);
    const void *program = sp_graph_bytes(&g, &size);
    memcpy(sp_memory_base(a->memory) + 3 * (size_t)bytes, program, size);
    assert_int_equal(sp_abi_program_load(a, 3 * bytes, size, &said), 0);
    assert_int_equal(sp_abi_program_bind(a, 0, 0, 0, 0, 2 * bytes, &said), 0);
    assert_int_equal(sp_abi_program_bind(a, 0, 1, 0, 2 * bytes, bytes, &said), 0);
    sp_graph_free(&g);
    SAYS(sp_abi_program_run(a, 0, 0, 0, false, &said), SP_OK, ""); /* now the device's limit is set */
    a->limits.run_ms = 0;
    sp_step_result result;
    SAYS(sp_actor_step(a, &result, &said), SP_ERR_LIMIT, "run");
    SAYS(sp_actor_step(a, &result, &said), SP_ERR_STATE, "");
    sp_actor_close(a);
}

/* ---- messages, texts, grammars ---- */

static void test_messages(void **state) {
    (void)state;
    sp_actor *a = new_actor("(module (import \"samepage\" \"receive\" (func $receive (param i32 i32) (result i32)))"
                            "(memory (export \"memory\") 1)"
                            "(func (export \"sp_step\") (result i32) (drop (call $receive (i32.const -8) (i32.const 100)))"
                            "  (drop (call $receive (i32.const 0) (i32.const 2))) (call $receive (i32.const 0) (i32.const 100)) drop i32.const 0))",
                            "cpu", NULL);
    sp_step_result result;
    SAYS(sp_actor_send(a, "abc", 3, &said), SP_OK, "");
    SAYS(sp_actor_send(a, "defg", 4, &said), SP_OK, "");
    SAYS(sp_actor_step(a, &result, &said), SP_OK, "");
    assert_int_equal(a->n_inbox, 1); /* out of bounds, then too small: it stays; then it is received */
    SAYS(sp_actor_step(a, &result, &said), SP_OK, "");
    assert_true(a->n_inbox == 0 && memcmp(sp_memory_base(a->memory), "defg", 4) == 0);
    SAYS(sp_actor_send(a, "h", 1, &said), SP_OK, "");
    a->inbox->size = 1u << 31; /* more than a guest's number can say */
    SAYS(sp_actor_step(a, &result, &said), SP_OK, "");
    assert_non_null(strstr(a->last_error.message, "are more than a guest can be given"));
    assert_int_equal(a->n_inbox, 1);
    a->inbox->size = 1;
    sp_actor_close(a);
}

#define TOKENISES                                                                                                                                    \
    "(module (import \"samepage\" \"tokenize\" (func $t (param i32 i32 i32 i32 i32 i32) (result i32)))"                                              \
    "(memory (export \"memory\") 64) (func (export \"sp_step\") (result i32)"                                                                        \
    "  (drop (call $t (i32.const 0) (i32.const 0) (i32.const 2000) (i32.const 0) (i32.const 4096) (i32.const 10)))"                                  \
    "  i32.const 0))"

/* A model that has no vocabulary. */
static void test_no_vocabulary(void **state) {
    (void)state;
    char *path = in_folder("SOURCE_DIR", "models/pocket/pocket-q8_0.gguf");
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *bytes = malloc(8 << 20);
    size_t size = fread(bytes, 1, 8 << 20, file), at = 0;
    fclose(file);
    free(path);
    while (memcmp(bytes + at, "tokenizer.ggml.model", 20) != 0) {
        at++;
    }
    assert_memory_equal(bytes + at + 32, "gpt2", 4);
    memcpy(bytes + at + 32, "none", 4);
    sp_model *model;
    if (sp_model_open_bytes(with.host, bytes, size, NULL, &model, &said)) {
        fail_msg("%s", said.message);
    }
    free(bytes);
    sp_actor *a = new_actor(TOKENISES, "cpu", model);
    sp_step_result result;
    SAYS(sp_actor_step(a, &result, &said), SP_OK, "");
    assert_non_null(strstr(a->last_error.message, "the model has no vocabulary"));
    sp_actor_close(a);
    sp_model_close(model);
}

static void test_texts(void **state) {
    (void)state;
    sp_actor *a = new_actor(TOKENISES, "cpu", with.pocket);
    sp_step_result result;
    a->limits.text_bytes = 1000;
    SAYS(sp_actor_step(a, &result, &said), SP_OK, "");
    assert_non_null(strstr(a->last_error.message, "--limit-text-bytes"));
    a->limits.text_bytes = 1 << 20;
    memcpy(sp_memory_base(a->memory), "root ::= \"a\"", 12);
    int64_t grammar = sp_abi_grammar_open(a, with.pocket, 0, 0, 12, &said);
    if (grammar < 0) {
        fail_msg("%s", said.message);
    }
    SAYS(sp_abi_grammar_mask(a, (int32_t)grammar, 4098, 16, &said), SP_ERR_ARGUMENT, "logits lie at multiples of 4");
    SAYS(sp_abi_grammar_allows(a, (int32_t)grammar, -1, &said), SP_ERR_RANGE, "the vocabulary has");
    sp_actor_close(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_regions),  cmocka_unit_test(test_ahead),     cmocka_unit_test(test_shared),        cmocka_unit_test(test_restored),
        cmocka_unit_test(test_weights),  cmocka_unit_test(test_submitted), cmocka_unit_test(test_written),       cmocka_unit_test(test_overrun),
        cmocka_unit_test(test_messages), cmocka_unit_test(test_texts),     cmocka_unit_test(test_no_vocabulary),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
