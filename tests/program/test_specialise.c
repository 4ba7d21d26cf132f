/* The second and third check: symbols, expressions, slots, places, row ids, estimates, and what is looked at before each run. */
#include "program/program_test.h"

#define G (&b->g)

static int setup(void **state_) {
    static bench b;
    b = new_bench();
    *state_ = &b;
    return 0;
}

static int teardown(void **state_) {
    sp_graph_free(&((bench *)*state_)->g);
    return 0;
}

static outcome accepted(bench *b, const uint64_t *symbols, uint32_t n) {
    outcome o = check_with(b, symbols, n);
    if (o.status != SP_OK) {
        fail_msg("refused: %s", o.err.message);
    }
    return o;
}

static void expect(outcome o, sp_status status, const char *words) {
    assert_int_equal(o.status, status);
    if (!strstr(o.err.message, words)) {
        fail_msg("says: %s; should say: %s", o.err.message, words);
    }
    drop(&o);
}

static void test_symbols(void **state_) {
    bench *b = *state_;
    sp_expr n = sp_symbol(G, "n", 1, 512), m = sp_symbol(G, "m", 0, 100);
    sp_tensor a = sp_graph_memory_2d(G, "a", IN, SP_TYPE_F32, sp_affine(2, n, -1), sp_affine(1, m, 3), sp_affine(32, m, 0));
    outcome o = accepted(b, (uint64_t[]){5, 2}, 2);
    const sp_spec_tensor *t = &o.spec->tensors[a];
    assert_string_equal(t->name, "a");
    assert_true(t->ne[0] == 9 && t->ne[1] == 5 && t->ne[2] == 1 && t->ne[3] == 1);
    assert_true(t->nb[0] == 4 && t->nb[1] == 36 && t->nb[2] == 180 && t->nb[3] == 180);
    assert_int_equal(t->offset, 64);
    assert_int_equal(o.spec->slots[IN].size, 64 + 180);
    assert_int_equal(o.spec->slots[STATE].size, 0);
    assert_int_equal(o.spec->symbols[1], 2);
    assert_ptr_equal(o.spec->program, o.program);
    drop(&o);
    expect(check_with(b, (uint64_t[]){5, 2}, 1), SP_ERR_ARGUMENT, "2 symbols; 1 values");
    expect(check_with(b, (uint64_t[]){0, 2}, 2), SP_ERR_RANGE, "symbol n is 0; it must be 1 to 512");
    expect(check_with(b, (uint64_t[]){513, 2}, 2), SP_ERR_RANGE, "symbol n is 513");
    expect(check_with(b, (uint64_t[]){5, UINT64_MAX}, 2), SP_ERR_RANGE, "symbol m");
}

static void test_expressions_overflow(void **state_) {
    bench *b = *state_;
    sp_expr n = sp_symbol(G, "n", 1, 1000);
    sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_affine(INT64_MAX / 4, n, 1), sp_dim(0));
    expect(check_with(b, (uint64_t[]){5}, 1), SP_ERR_FORMAT, "dimensions are 1 to 2^31 - 1");
    b->g.exprs[0].a = 1, b->g.exprs[0].b = INT64_MAX;
    expect(check_with(b, (uint64_t[]){5}, 1), SP_ERR_FORMAT, "dimensions are 1 to 2^31 - 1");
    b->g.exprs[0].b = 0;
    b->g.tensors[0].offset = sp_graph_expr(G, sp_affine(INT64_MIN, n, 0));
    expect(check_with(b, (uint64_t[]){2}, 1), SP_ERR_FORMAT, "the offset fits 64 bits");
    b->g.tensors[0].offset = SP_NONE;
    for (int i = 0; i < 3; i++) {
        b->g.tensors[0].nb[i] = sp_graph_expr(G, sp_affine(INT64_MAX, n, 0));
    }
    expect(check_with(b, (uint64_t[]){2}, 1), SP_ERR_FORMAT, "strides fit 64 bits");
}

static void test_weights(void **state_) {
    bench *b = *state_;
    sp_tensor w = weight(b, SP_TYPE_Q4_K, 512, 6, 2, 1);
    outcome o = accepted(b, NULL, 0);
    const sp_spec_tensor *t = &o.spec->tensors[w];
    assert_int_equal(t->weight, 7);
    assert_int_equal(t->type, SP_TYPE_Q4_K);
    assert_true(t->nb[0] == 144 && t->nb[1] == 288 && t->nb[2] == 288 * 6 && t->nb[3] == 288 * 12);
    assert_int_equal(t->alias, w);
    drop(&o);
    weight(b, SP_TYPE_Q4_K, 33, 6, 2, 1); /* a model that lies about itself */
    expect(check_with(b, NULL, 0), SP_ERR_FORMAT, "multiple of the type's block");
}

static void test_aliases(void **state_) {
    bench *b = *state_;
    sp_tensor a = f32(b, 64, 4, 1, 1), v = sp_view_1d(G, a, sp_dim(64), sp_dim(256)), r = sp_reshape_2d(G, v, sp_dim(8), sp_dim(8));
    sp_tensor p = sp_transpose(G, r), cache = state(b, SP_TYPE_F32, 64, 9, 1, 1), into = sp_set_rows(G, cache, a, ids(b, 4, 1));
    sp_tensor again = sp_view_1d(G, into, sp_dim(64), sp_dim(0)), copied = sp_cpy(G, v, again), sum = sp_neg(G, again);
    outcome o = accepted(b, NULL, 0);
    const sp_spec_tensor *t = o.spec->tensors;
    assert_true(t[v].alias == a && t[r].alias == a && t[p].alias == a && t[into].alias == cache && t[again].alias == cache &&
                t[copied].alias == cache);
    assert_int_equal(t[sum].alias, sum);
    assert_int_equal(t[v].offset, 256);
    assert_int_equal(t[copied].nb[1], 256);
    drop(&o);
}

/* What may be written where it is read: element by element, exactly. */
static void test_in_place(void **state_) {
    bench *b = *state_;
    sp_tensor s = state(b, SP_TYPE_F32, 64, 4, 1, 1), t = sp_graph_into(G, sp_add(G, s, f32(b, 64, 1, 1, 1)), s);
    sp_graph_into(G, sp_silu(G, t), s);
    sp_graph_into(G, sp_mul(G, sp_rms_norm(G, s, 0), f32(b, 64, 1, 1, 1)), s);
    outcome o = accepted(b, NULL, 0);
    assert_int_equal(o.spec->tensors[t].dst, s);
    assert_int_equal(o.spec->tensors[t].alias, t);
    assert_int_equal(o.spec->slots[STATE].size, 1024);
    assert_int_equal(o.spec->temporary_bytes, 1024); /* rms_norm alone */
    drop(&o);
}

/* Written first, then read: no READ needed. */
static void test_order(void **state_) {
    bench *b = *state_;
    uint32_t slot = sp_graph_slot(G, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor out = sp_graph_memory_1d(G, NULL, slot, SP_TYPE_F32, sp_dim(64), sp_dim(0));
    sp_graph_into(G, sp_neg(G, f32(b, 64, 1, 1, 1)), out);
    sp_exp(G, out);
    outcome o = accepted(b, NULL, 0);
    drop(&o);
}

static void test_windows_of_a_slot(void **state_) {
    bench *b = *state_;
    sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(64), sp_dim(0)); /* read-only ones may overlap */
    sp_graph_memory_1d(G, NULL, IN, SP_TYPE_F32, sp_dim(64), sp_dim(32));
    sp_graph_memory_1d(G, NULL, STATE, SP_TYPE_F32, sp_dim(8), sp_dim(64));
    sp_graph_memory_1d(G, NULL, STATE, SP_TYPE_F32, sp_dim(16), sp_dim(0));
    outcome o = accepted(b, NULL, 0);
    drop(&o);
    sp_graph_memory_1d(G, NULL, STATE, SP_TYPE_F32, sp_dim(1), sp_dim(32));
    expect(check_with(b, NULL, 0), SP_ERR_FORMAT, "windows 3 and 4 of slot state overlap");
}

static void test_row_ids(void **state_) {
    bench *b = *state_;
    sp_tensor which = ids(b, 4, 2), few = sp_view_1d(G, which, sp_dim(4), sp_dim(16)), other = ids(b, 2, 3);
    sp_get_rows(G, f32(b, 64, 9, 1, 1), few);
    sp_get_rows(G, f32(b, 64, 5, 1, 1), few);
    sp_get_rows(G, f32(b, 64, 7, 1, 1), sp_reshape_1d(G, which, sp_dim(8)));
    sp_mul_mat_id(G, f32(b, 64, 3, 6, 1), f32(b, 64, 1, 3, 1), other);
    outcome o = accepted(b, NULL, 0);
    assert_int_equal(o.spec->n_indices, 2);
    assert_true(o.spec->indices[0].tensor == which && o.spec->indices[0].bound == 5 && !o.spec->indices[0].distinct_rows);
    assert_true(o.spec->indices[1].tensor == other && o.spec->indices[1].bound == 6 && o.spec->indices[1].distinct_rows);
    assert_true(o.spec->tensors[which].index && o.spec->tensors[other].index && !o.spec->tensors[few].index);

    sp_error err;
    int32_t good[8] = {0, 4, 4, 1, 2, 3, 0, 0}, bad[8] = {0, 1, 2, 3, 4, 5, 0, 0}, negative[8] = {0, 1, -1};
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], good, &err), SP_OK);
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], bad, &err), SP_ERR_RANGE);
    assert_non_null(strstr(err.message, "[5] is 5; it must be 0 to 4"));
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], negative, &err), SP_ERR_RANGE);
    int32_t distinct[6] = {5, 0, 0, 5, 1, 2}, twice[6] = {5, 0, 3, 3, 1, 2};
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[1], distinct, &err), SP_OK);
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[1], twice, &err), SP_ERR_RANGE);
    assert_non_null(strstr(err.message, "names 3 twice"));
    drop(&o);
}

static void test_wide_row_ids(void **state_) {
    bench *b = *state_;
    sp_set_rows(G, state(b, SP_TYPE_F16, 64, 9, 1, 1), f32(b, 64, 2, 1, 1), typed(b, SP_TYPE_I64, 2, 1, 1, 1));
    outcome o = accepted(b, NULL, 0);
    int64_t good[2] = {8, 0}, bad[2] = {8, INT64_C(1) << 32}; /* row 0, if only half of it were looked at */
    assert_int_equal(o.spec->n_indices, 1);
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], good, NULL), SP_OK);
    assert_int_equal(sp_spec_check_index(o.spec, &o.spec->indices[0], bad, NULL), SP_ERR_RANGE);
    drop(&o);
}

static void test_ranges(void **state_) {
    bench *b = *state_;
    sp_graph_slot(G, "more", SP_SLOT_READ);
    f32(b, 64, 1, 1, 1);
    state(b, SP_TYPE_F32, 64, 1, 1, 1);
    outcome o = accepted(b, NULL, 0);
    sp_error err;
#define RANGES(status, ...) assert_int_equal(sp_spec_check_ranges(o.spec, (const sp_slot_range[]){__VA_ARGS__}, &err), status)
    RANGES(SP_OK, {4096, 256}, {4352, 256}, {0, 0});
    RANGES(SP_OK, {4096, 256}, {8192, 300}, {4096, 256}); /* both only read */
    RANGES(SP_ERR_RANGE, {4096, 256}, {4344, 256}, {0, 0});
    assert_non_null(strstr(err.message, "slots in and state overlap"));
    RANGES(SP_ERR_RANGE, {4096, 256}, {8192, 255}, {0, 0});
    assert_non_null(strstr(err.message, "slot state is bound to 255 bytes; it needs 256"));
    RANGES(SP_ERR_RANGE, {4097, 256}, {8192, 256}, {0, 0});
    RANGES(SP_ERR_RANGE, {UINT64_MAX - 255, 256}, {8192, 256}, {0, 0});
#undef RANGES
    drop(&o);
}

static void test_limits(void **state_) {
    bench *b = *state_;
    sp_mul_mat(G, f32(b, 64, 10, 1, 1), f32(b, 64, 3, 1, 1));
    sp_flash_attn_ext(G, f32(b, 64, 5, 8, 1), f32(b, 64, 32, 2, 1), f32(b, 32, 32, 2, 1), SP_NONE, 1, 0, 0);
    outcome o = accepted(b, NULL, 0);
    const uint64_t flops = 2 * 64 * 30 + 2 * (64 + 32) * 32 * 40, bytes = 120 + 40 * 32 * 4 + 64 * 3 * 4;
    assert_int_equal(o.spec->flops, flops);
    assert_int_equal(o.spec->temporary_bytes, bytes);
    sp_spec *spec;
    sp_error err;
    assert_int_equal(sp_program_specialise(o.program, NULL, 0, &(sp_spec_limits){flops, bytes}, &spec, &err), SP_OK);
    sp_spec_free(spec);
    assert_int_equal(sp_program_specialise(o.program, NULL, 0, &(sp_spec_limits){flops - 1, bytes}, &spec, &err), SP_ERR_LIMIT);
    assert_null(spec);
    assert_non_null(strstr(err.message, "operations; the limit is"));
    assert_int_equal(sp_program_specialise(o.program, NULL, 0, &(sp_spec_limits){flops, bytes - 1}, &spec, &err), SP_ERR_LIMIT);
    assert_non_null(strstr(err.message, "temporaries"));
    drop(&o);
}

/* Results take the room of those that nobody reads any more; a view keeps what it shows. */
static void test_temporaries(void **state_) {
    bench *b = *state_;
    sp_tensor x = f32(b, 1000, 1, 1, 1), kept = sp_sqr(G, x), seen = sp_view_1d(G, kept, sp_dim(10), sp_dim(0));
    for (int i = 0; i < 8; i++) {
        x = sp_sqr(G, x);
    }
    sp_graph_op2(G, SP_OP_ADD, sp_view_1d(G, x, sp_dim(10), sp_dim(0)), seen);
    outcome o = accepted(b, NULL, 0);
    assert_int_equal(o.spec->temporary_bytes, 3 * 4000); /* what is kept, one that is read, one that is made */
    drop(&o);
}

/* Many tensors take time in proportion: the longest chain that is allowed. */
static void test_long_chain(void **state_) {
    bench *b = *state_;
    sp_tensor t = f32(b, 64, 1, 1, 1);
    while (b->g.n_tensors < SP_PROGRAM_MAX_TENSORS) {
        t = sp_neg(G, t);
    }
    outcome o = accepted(b, NULL, 0);
    assert_int_equal(o.spec->tensors[SP_PROGRAM_MAX_TENSORS - 1].ne[0], 64);
    drop(&o);
    sp_neg(G, t);
    expect(check_with(b, NULL, 0), SP_ERR_LIMIT, "65537 tensors");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(symbols), TEST(expressions_overflow), TEST(weights), TEST(aliases), TEST(in_place),    TEST(order),      TEST(windows_of_a_slot),
        TEST(row_ids), TEST(wide_row_ids),         TEST(ranges),  TEST(limits),  TEST(temporaries), TEST(long_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
