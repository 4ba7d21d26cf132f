/* The builder and the reader of samepage/graph.h: what was built is what is read, and errors stick. */
#include "program/program_test.h"

static void test_round_trip(void **state_) {
    (void)state_;
    sp_graph g;
    sp_graph_init(&g);
    sp_expr n = sp_symbol(&g, "n", 1, 64), m = sp_symbol(&g, "m", 2, 8);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), kept = sp_graph_slot(&g, "kept", SP_SLOT_STATE);
    const sp_expr ne[4] = {sp_dim(64), n, m, sp_dim(1)}, nb[3] = {sp_dim(512), sp_affine(1024, n, 0), sp_dim(1 << 20)};
    sp_tensor a = sp_graph_memory(&g, "a", in, SP_TYPE_F32, ne, nb, sp_affine(64, m, 32));
    sp_tensor k = sp_graph_memory_3d(&g, "k", kept, SP_TYPE_Q8_0, sp_dim(64), n, sp_dim(3), sp_dim(0));
    sp_graph_memory_1d(&g, NULL, kept, SP_TYPE_F32, sp_dim(8), sp_dim(1 << 20));
    sp_set_name(&g, sp_rms_norm(&g, a, 1e-5f), "normed");
    uint32_t size, again;
    const void *bytes = sp_graph_bytes(&g, &size);
    assert_non_null(bytes);
    assert_true(sp_program_is_whole(bytes, size));
    assert_false(sp_program_is_whole(bytes, size - 8));
    assert_false(sp_program_is_whole(bytes, 0));

    assert_int_equal(sp_program_find_slot(bytes, "kept"), kept);
    assert_int_equal(sp_program_find_slot(bytes, "no"), SP_NONE);
    assert_int_equal(sp_program_find_symbol(bytes, "m"), 1);
    assert_int_equal(sp_program_find_symbol(bytes, "in"), SP_NONE);
    assert_int_equal(sp_program_slot_table(bytes)[kept].flags, SP_SLOT_STATE | SP_SLOT_READ | SP_SLOT_WRITE);
    assert_string_equal(sp_program_text(bytes, sp_program_tensor_table(bytes)[3].name), "normed");
    assert_int_equal(g.n_exprs, 11); /* equal ones are shared: 64, n, m, 1, 512, 1024n, 2^20, 64m+32, 3, 0, 8 */

    /* The reader, the verifier and a calculation by hand agree. */
    const uint64_t symbols[2] = {5, 4};
    sp_program *program;
    sp_spec *spec;
    assert_int_equal(sp_program_load(bytes, size, NULL, &program, NULL), SP_OK);
    sp_error err;
    assert_int_equal(sp_program_specialise(program, symbols, 2, NULL, &spec, &err), SP_OK);
    for (uint32_t t = a; t <= k + 1; t++) {
        const sp_window w = sp_program_window(bytes, t, symbols);
        assert_memory_equal(w.ne, spec->tensors[t].ne, sizeof w.ne);
        assert_memory_equal(w.nb, spec->tensors[t].nb, sizeof w.nb);
        assert_int_equal(w.offset, spec->tensors[t].offset);
    }
    for (uint32_t slot = 0; slot < 2; slot++) {
        assert_int_equal(sp_program_slot_size(bytes, slot, symbols), spec->slots[slot].size);
    }
    assert_int_equal(spec->slots[in].size, 288 + 256 + 4 * 512 + 3 * 5120);
    assert_int_equal(spec->slots[kept].size, (1 << 20) + 32);
    sp_spec_free(spec);
    sp_program_free(program);

    char small[8];
    assert_int_equal(sp_graph_finish(&g, small, sizeof small), size); /* does not fit: only the size */
    char *copy = malloc(size);
    assert_int_equal(sp_graph_finish(&g, copy, size), size);
    assert_memory_equal(copy, sp_graph_bytes(&g, &again), size);
    assert_int_equal(again, size);
    free(copy);

    /* A program goes on where it ended. */
    sp_graph more;
    bytes = sp_graph_bytes(&g, &size);
    sp_graph_from(&more, bytes);
    copy = malloc(size);
    assert_int_equal(sp_graph_finish(&more, copy, size), size);
    assert_memory_equal(copy, bytes, size);
    free(copy);
    const sp_expr rows = sp_graph_window_dim(&more, a, 1);
    const uint32_t out = sp_graph_slot(&more, "out", SP_SLOT_WRITE);
    const sp_tensor window = sp_graph_memory_2d(&more, "out", out, SP_TYPE_F32, sp_dim(64), rows, sp_dim(0));
    sp_tensor found = SP_NONE;
    assert_int_equal(sp_graph_result_of(&more, out, &found), SP_NONE);
    const sp_tensor sum = sp_graph_into(&more, sp_neg(&more, sp_view_2d(&more, a, sp_dim(64), rows, sp_dim(512), sp_dim(0))), window);
    assert_int_equal(sp_graph_result_of(&more, out, &found), sum);
    assert_int_equal(found, window);
    const void *longer = sp_graph_bytes(&more, &again);
    assert_non_null(longer);
    assert_int_equal(sp_program_find_slot(longer, "kept"), kept);
    assert_int_equal(sp_program_slot_size(longer, out, symbols), 5 * 256);
    assert_int_equal(sp_program_load(longer, again, NULL, &program, &err), SP_OK);
    sp_program_free(program);
    sp_graph_free(&more);
    sp_graph_free(&g);
}

/* The first error is kept; nothing after it does anything. */
static void expect_error(sp_graph *g, const char *words) {
    uint32_t size = 1;
    assert_null(sp_graph_bytes(g, &size));
    assert_int_equal(size, 0);
    assert_int_equal(sp_graph_finish(g, NULL, 0), 0);
    assert_non_null(g->error);
    if (!strstr(g->error, words)) {
        fail_msg("says: %s; should say: %s", g->error, words);
    }
    const uint32_t tensors = g->n_tensors;
    assert_int_equal(sp_neg(g, 0), SP_NONE);
    assert_int_equal(sp_graph_memory_1d(g, NULL, 0, 0, sp_dim(1), sp_dim(0)), SP_NONE);
    sp_mul_mat_set_prec(g, sp_graph_into(g, sp_view_1d(g, 0, sp_dim(1), sp_dim(0)), 0), 10);
    assert_int_equal(g->n_tensors, tensors);
    sp_graph_free(g);
}

static void test_errors(void **state_) {
    (void)state_;
#define ERROR(words, ...)                                                                                                                            \
    do {                                                                                                                                             \
        bench b_ = new_bench(), *b = &b_;                                                                                                            \
        sp_graph *g = &b->g;                                                                                                                         \
        __VA_ARGS__;                                                                                                                                 \
        expect_error(g, words);                                                                                                                      \
    } while (0)
    char name[65];
    memset(name, 'x', 64);
    name[64] = 0;
    ERROR("no tensors", (void)b);
    ERROR("no slot", sp_graph_memory_1d(g, NULL, 2, SP_TYPE_F32, sp_dim(1), sp_dim(0)));
    ERROR("a source is no tensor", sp_neg(g, 0));
    ERROR("a source is no tensor", sp_add(g, f32(b, 4, 1, 1, 1), 7));
    ERROR("longer than 63", sp_graph_slot(g, name, SP_SLOT_READ));
    ERROR("a slot needs a name", sp_graph_slot(g, "", SP_SLOT_READ));
    ERROR("a symbol needs a name", sp_symbol(g, NULL, 0, 1));
    ERROR("a weight needs a name", sp_graph_weight(g, ""));
    ERROR("product of two symbols", sp_expr n = sp_symbol(g, "n", 1, 9); sp_view_2d(g, f32(b, 4, 1, 1, 1), sp_dim(4), n, n, sp_dim(0)));
    ERROR("destination must be made before", sp_tensor t = sp_neg(g, f32(b, 4, 1, 1, 1)); sp_graph_into(g, t, state(b, SP_TYPE_F32, 4, 1, 1, 1)));
    ERROR("source must be made before", sp_tensor t = sp_soft_max(g, f32(b, 4, 1, 1, 1)); sp_soft_max_add_sinks(g, t, f32(b, 4, 1, 1, 1)));
    ERROR("too many sources", sp_graph_op(g, SP_OP_ADD, 11, NULL, 0, NULL));
}

static void test_expressions(void **state_) {
    (void)state_;
    sp_graph g;
    sp_graph_init(&g);
    sp_expr n = sp_symbol(&g, "n", 0, 9), e = sp_affine(3, sp_affine(2, n, 1), -5), zero = sp_affine(0, n, 4);
    assert_true(e.a == 6 && e.b == -2 && e.symbol == 0);
    assert_true(zero.a == 0 && zero.b == 4 && zero.symbol == SP_NONE);
    sp_expr product = sp_graph_product(&g, sp_dim(8), e);
    assert_true(product.a == 48 && product.b == -16);
    assert_null(g.error);
    sp_graph_free(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_errors), cmocka_unit_test(test_expressions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
