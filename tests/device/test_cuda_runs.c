/* One executable of the CUDA device over and over, each time with numbers of its own: what it hands from operation to operation must be this run's.
 */
#define DEVICE_TEST_REGION (48 << 20)
#include "device_test.h"

/* Hides some positions, and some stretches of them; adds to others. */
static void fill_mask(uint16_t *halves, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        halves[i] = i % 5 == 2 || i / 48 % 3 == 1 ? 0xfc00 : i % 3 ? 0 : 0xb800;
    }
}

/* Results of so many runs of one executable, each over numbers and rows of its own; caches stay from run to run. The result is the last window. */
static void run_anew(graph_case *c, sp_device *device, const sp_spec *spec, const uint8_t *weights, int runs, float *results) {
    const filled *in = &c->windows[0], *out = &c->windows[c->n_windows - 1];
    uint8_t *pages = new_pages(REGION);
    bound b;
    bind_case(c, device, spec, weights, pages, &b);
    for (int run = 0; run < runs; run++) {
        for (uint64_t i = 0; i < in->size / sizeof(float); i++) {
            ((float *)(void *)(pages + in->offset))[i] = sinf((float)(i + 1) * (float)(run + 1));
        }
        for (uint32_t i = 1; i < c->n_windows; i++) {
            if (c->windows[i].bound) {
                *(int64_t *)(void *)(pages + c->windows[i].offset) = (run * 131 + (int64_t)i) % c->windows[i].bound;
            } else if (c->windows[i].slot == IN) {
                fill_mask((uint16_t *)(void *)(pages + c->windows[i].offset), c->windows[i].size / sizeof(uint16_t));
            }
        }
        MUST(sp_device_memory_sync(b.memory, 0, REGION / 2, SP_SYNC_TO_DEVICE, err));
        MUST(sp_device_execute(b.x, err));
        MUST(sp_device_memory_sync(b.memory, REGION / 2, REGION / 2, SP_SYNC_FROM_DEVICE, err));
        memcpy(results + (uint64_t)run * out->size / sizeof(float), pages + REGION / 2 + out->offset, out->size);
    }
    unbind_case(&b);
    munmap(pages, REGION);
}

enum { ANEW = 512, ANEW_RUNS = 6 };

/* Both devices must say the same in all runs. The result is a column. */
static void compare_runs(void **state, graph_case *c) {
    const devices *d = *state;
    sp_program *program = NULL;
    sp_spec *spec = specialise_case(c, &program);
    uint8_t *weights = new_pages(c->weight_bytes + 4096);
    for (uint32_t i = 0; i < c->n_weights; i++) {
        fill_numbers(c->weights[i].type, weights + c->weights[i].offset, c->weights[i].ne[0], c->weights[i].ne[1], -0.1f, 0.1f, 0);
    }
    static float mine[ANEW_RUNS * ANEW], right[ANEW_RUNS * ANEW];
    const uint64_t n = (uint64_t)c->windows[c->n_windows - 1].ne[0];
    run_anew(c, d->cpu, spec, weights, ANEW_RUNS, right);
    run_anew(c, d->tested, spec, weights, ANEW_RUNS, mine);
    for (uint64_t run = 0; run < ANEW_RUNS; run++) {
        check_window(c, &(filled){.type = SP_TYPE_F32, .size = n * sizeof(float), .ne = {(int64_t)n, 1, 1, 1}}, (uint8_t *)&mine[run * n],
                     (uint8_t *)&right[run * n]);
    }
    munmap(weights, c->weight_bytes + 4096);
    sp_spec_free(spec);
    sp_program_free(program);
    sp_graph_free(&c->g);
}

/* Columns that products hand on are where those of the last run were: each run must wait for its own. */
static void test_runs_anew(void **state) {
    graph_case one, *c = &one;
    begin_case(c, "runs anew", 1e-3);
    sp_graph *g = &c->g;
    sp_tensor x = add_window(c, IN, SP_TYPE_F32, ANEW, 1, 1, 1), h = sp_mul_mat(g, model_weight(c, SP_TYPE_Q4_0, ANEW, ANEW, 1), x);
    for (int i = 0; i < 6; i++) {
        h = sp_graph_op2(g, SP_OP_ADD, sp_mul_mat(g, model_weight(c, i % 2 ? SP_TYPE_Q8_0 : SP_TYPE_F16, ANEW, ANEW, 1), h), h);
    }
    result(c, h, SP_TYPE_F32, ANEW, 1, 1, 1);
    compare_runs(state, c);
}

/* Attention takes the newest row from the products that make it, and the others from the cache: in pieces or in one, of all widths, with keys' and
 * values' rows at one place or at two, or behind what attention sees, hidden or not; layers in a row. */
static void test_newest_rows(void **state) {
    graph_case c;
    for (int i = 0; i < 9; i++) {
        char name[64];
        snprintf(name, sizeof name, "newest rows, case %d", i);
        begin_case(&c, name, 1e-5);
        int64_t n = 256, d = 64 << i % 3, heads = n / d, kv = heads > 1 ? heads / 2 : 1, all = i < 3 ? 96 : 608, seen = i == 8 ? all - 70 : all;
        sp_graph *g = &c.g;
        sp_tensor x = add_window(&c, IN, SP_TYPE_F32, n, 1, 1, 1), place = row_ids(&c, SP_TYPE_I64, 1, 1, 1, all, true);
        sp_tensor other = i % 2 ? place : row_ids(&c, SP_TYPE_I64, 1, 1, 1, all, true), positions = row_ids(&c, SP_TYPE_I32, 1, 1, 1, all, true);
        sp_tensor mask = i == 3 || i == 8 ? SP_NONE : add_window(&c, IN, SP_TYPE_F16, seen, 1, 1, 1);
        for (int layer = 0; layer < 3; layer++) {
            uint32_t type = layer % 2 ? SP_TYPE_F32 : SP_TYPE_F16; /* of some, products are no streams */
            type = i % 3 == 1 ? type : SP_TYPE_F16;
            sp_tensor q = sp_mul_mat(g, model_weight(&c, type, n, n, 1), x), k = sp_mul_mat(g, model_weight(&c, type, n, kv * d, 1), x);
            sp_tensor v = sp_mul_mat(g, model_weight(&c, type, n, kv * d, 1), x), rows[2];
            q = sp_rope(g, sp_reshape_3d(g, q, sp_dim(d), sp_dim(heads), sp_dim(1)), positions, (int)d, 0);
            k = sp_rope(g, sp_reshape_3d(g, k, sp_dim(d), sp_dim(kv), sp_dim(1)), positions, (int)d, 0);
            for (int r = 0; r < 2; r++) {
                sp_tensor cache = add_window(&c, OUT, SP_TYPE_F16, kv * d, all, 1, 1);
                rows[r] = sp_set_rows(g, cache, sp_reshape_2d(g, r ? v : k, sp_dim(kv * d), sp_dim(1)), r ? other : place);
                rows[r] = sp_view_3d(g, rows[r], sp_dim(d), sp_dim(seen), sp_dim(kv), sp_dim(kv * d * 2), sp_dim(d * 2), sp_dim(0));
            }
            sp_tensor attended = sp_flash_attn_ext(g, sp_permute(g, q, 0, 2, 1, 3), rows[0], rows[1], mask, 0.1f, 0, 0);
            x = sp_graph_op2(g, SP_OP_ADD, sp_reshape_2d(g, attended, sp_dim(n), sp_dim(1)), x);
            x = sp_mul_mat(g, model_weight(&c, type, n, n, 1), x);
        }
        result(&c, x, SP_TYPE_F32, n, 1, 1, 1);
        compare_runs(state, &c);
    }
}

/* The same of so many heads that pieces of the cache are long: a warp of a card has three tiles of one. */
static void test_newest_rows_of_many_heads(void **state) {
    enum { N = 256, HEADS = 44, ALL = 1008 };
    for (int64_t d = 64; d <= 128; d *= 2) {
        graph_case one, *c = &one;
        begin_case(c, "newest rows, many heads", 1e-5);
        sp_graph *g = &c->g;
        const int64_t n = HEADS * d;
        sp_tensor x = add_window(c, IN, SP_TYPE_F32, N, 1, 1, 1), place = row_ids(c, SP_TYPE_I64, 1, 1, 1, ALL, true);
        sp_tensor mask = add_window(c, IN, SP_TYPE_F16, ALL, 1, 1, 1), made[3], rows[2];
        for (int i = 0; i < 3; i++) {
            made[i] = sp_mul_mat(g, model_weight(c, SP_TYPE_F16, N, n, 1), x);
        }
        for (int r = 0; r < 2; r++) {
            sp_tensor cache = add_window(c, OUT, SP_TYPE_F16, n, ALL, 1, 1);
            rows[r] = sp_set_rows(g, cache, sp_reshape_2d(g, made[r], sp_dim(n), sp_dim(1)), place);
            rows[r] = sp_view_3d(g, rows[r], sp_dim(d), sp_dim(ALL), sp_dim(HEADS), sp_dim(n * 2), sp_dim(d * 2), sp_dim(0));
        }
        sp_tensor q = sp_permute(g, sp_reshape_3d(g, made[2], sp_dim(d), sp_dim(HEADS), sp_dim(1)), 0, 2, 1, 3);
        sp_tensor attended = sp_reshape_2d(g, sp_flash_attn_ext(g, q, rows[0], rows[1], mask, 0.1f, 0, 0), sp_dim(n), sp_dim(1));
        result(c, sp_mul_mat(g, model_weight(c, SP_TYPE_F16, n, N, 1), attended), SP_TYPE_F32, N, 1, 1, 1);
        compare_runs(state, c);
    }
}

/* get_rows of the only row is that row: of a temporary, of a view of one, and of what other operations read too. */
static void test_only_row(void **state) {
    graph_case one, *c = &one;
    begin_case(c, "the only row", 1e-3);
    sp_graph *g = &c->g;
    sp_tensor x = add_window(c, IN, SP_TYPE_F32, ANEW, 1, 1, 1), ids = row_ids(c, SP_TYPE_I32, 1, 1, 1, 1, true);
    sp_tensor h = sp_mul_mat(g, model_weight(c, SP_TYPE_Q8_0, ANEW, ANEW, 1), x);
    sp_tensor half = sp_view_3d(g, h, sp_dim(ANEW / 2), sp_dim(1), sp_dim(1), sp_dim(ANEW * 2), sp_dim(ANEW * 2), sp_dim(ANEW * 2));
    sp_tensor all = sp_get_rows(g, h, ids), product = sp_mul_mat(g, model_weight(c, SP_TYPE_Q4_0, ANEW, ANEW, 1), all);
    sp_tensor sum = sp_graph_op2(g, SP_OP_ADD, sp_get_rows(g, product, ids), all);
    sp_tensor end = sp_mul_mat(g, model_weight(c, SP_TYPE_F16, ANEW, ANEW / 2, 1), sum);
    result(c, sp_graph_op2(g, SP_OP_ADD, end, sp_get_rows(g, half, ids)), SP_TYPE_F32, ANEW / 2, 1, 1, 1);
    compare_runs(state, c);
}

/* There is but one row: an id of another is refused, though nothing looks at it. */
static void test_other_row(void **state) {
    const devices *d = *state;
    graph_case one, *c = &one;
    begin_case(c, "another row", 1e-3);
    sp_graph *g = &c->g;
    sp_tensor x = add_window(c, IN, SP_TYPE_F32, ANEW, 1, 1, 1), ids = row_ids(c, SP_TYPE_I32, 1, 1, 1, 1, true);
    sp_tensor row = sp_get_rows(g, sp_mul_mat(g, model_weight(c, SP_TYPE_F16, ANEW, ANEW, 1), x), ids);
    result(c, sp_graph_op2(g, SP_OP_ADD, row, row), SP_TYPE_F32, ANEW, 1, 1, 1);
    sp_program *program = NULL;
    sp_spec *spec = specialise_case(c, &program);
    bound b;
    uint8_t *pages = new_pages(REGION), *weights = new_pages(c->weight_bytes + 4096);
    bind_case(c, d->tested, spec, weights, pages, &b);
    for (int32_t id = -1; id <= 1; id++) {
        sp_error error;
        *(int32_t *)(void *)(pages + c->windows[1].offset) = id;
        MUST(sp_device_memory_sync(b.memory, 0, REGION / 2, SP_SYNC_TO_DEVICE, err));
        assert_int_equal(sp_device_execute(b.x, &error), id ? SP_ERR_RANGE : SP_OK);
    }
    unbind_case(&b);
    munmap(pages, REGION);
    munmap(weights, c->weight_bytes + 4096);
    sp_spec_free(spec);
    sp_program_free(program);
    sp_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs_anew), cmocka_unit_test(test_newest_rows),
                                       cmocka_unit_test(test_newest_rows_of_many_heads), cmocka_unit_test(test_only_row),
                                       cmocka_unit_test(test_other_row)};
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
