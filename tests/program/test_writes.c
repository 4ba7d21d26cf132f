/* What a run is said to write: whole results, and rows whose ids lie in the host's pages, neighbours together, whatever the ids are. */
#include "program/program_test.h"

enum { ROW = 4 * 4, ROWS = 16 };

typedef struct heard {
    uint64_t from[8], to[8];
    uint32_t n;
} heard;

static void hear(void *user, uint64_t from, uint64_t to) {
    heard *h = user;
    assert_true(h->n < 8);
    h->from[h->n] = from, h->to[h->n++] = to;
}

/* The writes of what was built; ends the graph. */
static sp_spec_write *writes_of(bench *b, uint32_t *n) {
    outcome o = check_with(b, NULL, 0);
    sp_spec_write *writes;
    if (o.status != SP_OK) {
        fail_msg("refused: %s", o.err.message);
    }
    assert_int_equal(sp_spec_get_writes(o.spec, &writes, n, &o.err), SP_OK);
    drop(&o);
    sp_graph_free(&b->g);
    return writes;
}

static void expect_rows(const sp_spec_write *w, const void *ids_, uint32_t n, const uint64_t (*ranges)[2]) {
    heard h = {.n = 0};
    sp_spec_each_write(w, ids_, hear, &h);
    assert_int_equal(h.n, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(h.from[i] == w->offset + ranges[i][0] && h.to[i] == w->offset + ranges[i][1]);
    }
}

static void test_rows(void **state_) {
    (void)state_;
    bench table = new_bench(), *b = &table;
    uint32_t n;
    sp_graph_memory_1d(&b->g, "before", STATE, SP_TYPE_F32, sp_dim(8), sp_dim(0));
    b->used[STATE] = 4096;
    sp_set_rows(&b->g, state(b, SP_TYPE_F32, 4, ROWS, 1, 1), f32(b, 4, 5, 1, 1), ids(b, 5, 1));
    sp_set_rows(&b->g, state(b, SP_TYPE_F32, 4, ROWS, 1, 1), f32(b, 4, 3, 1, 1), typed(b, SP_TYPE_I64, 3, 1, 1, 1));
    sp_spec_write *w = writes_of(b, &n);
    assert_int_equal(n, 2);
    assert_true(w[0].row_bytes == ROW && !w[0].wide && w[0].n_ids == 5 && w[0].offset == 4096 && w[1].wide && w[1].offset == 8192);
    const int32_t some[] = {3, 4, 5, 9, 0};
    expect_rows(&w[0], some, 3, (const uint64_t[][2]){{3 * ROW, 6 * ROW}, {9 * ROW, 10 * ROW}, {0, ROW}});
    const int64_t wide[] = {15, 1, 2};
    expect_rows(&w[1], wide, 2, (const uint64_t[][2]){{15 * ROW, 16 * ROW}, {1 * ROW, 3 * ROW}});
    /* Ids that can't be, once they were checked, are no way out of the range. */
    const int64_t wild[] = {-1, INT64_MAX, 16};
    expect_rows(&w[1], wild, 3, (const uint64_t[][2]){{0, ROWS * ROW}, {0, ROWS * ROW}, {ROWS * ROW, ROWS * ROW}});
    const int64_t across[] = {15, 16, 17};
    expect_rows(&w[1], across, 1, (const uint64_t[][2]){{0, ROWS * ROW}});
    const int64_t last[] = {15, 16, 3};
    expect_rows(&w[1], last, 2, (const uint64_t[][2]){{15 * ROW, ROWS * ROW}, {3 * ROW, 4 * ROW}});
    free(w);
}

/* Anything but a plain list of ids for one matrix is taken for all of what is written. */
static void test_whole(void **state_) {
    (void)state_;
    bench table = new_bench(), *b = &table;
    uint32_t n;
    sp_tensor sorted = sp_argsort(&b->g, sp_clamp(&b->g, f32(b, 4, 1, 1, 1), 0, 1), 0);
    sp_set_rows(&b->g, state(b, SP_TYPE_F32, 4, 4, 1, 1), f32(b, 4, 4, 1, 1), sorted);
    sp_set_rows(&b->g, state(b, SP_TYPE_F32, 4, ROWS, 2, 1), f32(b, 4, 5, 2, 1), ids(b, 5, 1));
    sp_cpy(&b->g, f32(b, 4, 1, 1, 1), state(b, SP_TYPE_F32, 4, 1, 1, 1));
    sp_tensor to = state(b, SP_TYPE_F32, 4, 1, 1, 1);
    sp_graph_into(&b->g, sp_neg(&b->g, f32(b, 4, 1, 1, 1)), to);
    sp_neg(&b->g, f32(b, 4, 1, 1, 1)); /* writes no window */
    sp_spec_write *w = writes_of(b, &n);
    assert_int_equal(n, 4);
    for (uint32_t i = 0; i < n; i++) {
        heard h = {.n = 0};
        assert_int_equal(w[i].row_bytes, 0);
        sp_spec_each_write(&w[i], NULL, hear, &h);
        assert_true(h.n == 1 && h.from[0] == w[i].offset && h.to[0] == w[i].offset + w[i].length);
    }
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
