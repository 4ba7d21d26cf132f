/*
 * What a card with a ring is told to do, on machines without one: schedules made for it are read in place of being run (fake_cuda.h). What its
 * fetching warps bring must be what its blocks will take, in that order; and maps of matrices must be what the driver allows.
 */
#include "device_test.h"

#include "device/cuda/cuda.h"
#include "fake_cuda.h"

static struct {
    uint64_t schedules, streams, own;
    uint32_t ring_from;
} seen;

static bool lies_in(const k_tensor *t, uint64_t from, uint64_t bytes) {
    return t->data && from >= t->data && from + bytes <= t->data + (uint64_t)t->ne[1] * (uint64_t)t->nb[1];
}

/* The ranges of one part of an operation; returns where the next begins. */
static const k_stream *check_product(const k_op *op, const k_work *work, const k_stream *at) {
    const bool two = op->after & K_AFTER_GLU;
    uint64_t wanted = (uint64_t)(work->to - work->from) * (uint64_t)op->src[K_SRC_LEFT].nb[1] * (two ? 2 : 1);
    assert_int_equal(at->from, op->src[K_SRC_LEFT].data + work->from * (uint64_t)op->src[K_SRC_LEFT].nb[1]);
    for (; wanted; at++) {
        assert_false(at->leaves);
        assert_in_range(at->bytes, 1, wanted);
        assert_in_range(at->tile_bytes, 16, K_SLOT);
        assert_in_range(at->under_way, K_UNDER_WAY, K_UNDER_WAY_LONGEST);
        assert_int_equal(at->tile_bytes % 16 + at->bytes % 16 + at->from % 16 + at->step % 16, 0);
        const uint64_t tiles = (at->bytes + at->tile_bytes - 1) / at->tile_bytes, last = at->bytes - (tiles - 1) * at->tile_bytes;
        const uint64_t end = (tiles - 1) * at->step + last;
        assert_true(lies_in(&op->src[K_SRC_LEFT], at->from, end) || (two && lies_in(&op->src[K_SRC_LEFT2], at->from, end)));
        wanted -= at->bytes;
        seen.streams++;
    }
    return at;
}

/* Each block's ranges, in the order of its works. */
static void check_schedule(const k_schedule *s) {
    const uint32_t blocks = fake_blocks();
    const k_work *works = (const k_work *)(s + 1);
    const k_op *ops = (const k_op *)(uintptr_t)s->ops;
    for (uint32_t b = 0; b < blocks; b++) {
        const k_stream *first = (const k_stream *)(uintptr_t)s->streams + (uint64_t)b * s->n_streams, *at = first, *end = first + s->n_streams;
        for (uint32_t i = s->ring_from; i < s->n_phases; i++) {
            const k_work *work = &works[(uint64_t)i * blocks + b];
            while (at < end && at->bytes && !at->tile_bytes && !at->leaves) {
                at++; /* keys and values, brought near */
            }
            if (work->part & K_OWN_SLOT) {
                assert_true(at < end && at->leaves);
                seen.own++;
                at++;
            }
            if (work->op != K_NO_WORK && ops[work->op].op == K_OP_STREAM) {
                assert_false(work->part & K_MORE);
                at = check_product(&ops[work->op], work, at);
            }
            assert_true(at <= end);
        }
        assert_true(at == end || !at->bytes);
    }
    /* All rows of each product belong to somebody. */
    for (uint32_t op = 0; op < s->n_ops; op++) {
        uint64_t rows = 0;
        for (uint64_t i = 0; ops[op].op == K_OP_STREAM && i < (uint64_t)s->n_phases * blocks; i++) {
            rows += works[i].op == op ? works[i].to - works[i].from : 0;
        }
        const bool dealt = ops[op].op == K_OP_STREAM && ops[op].n_parts <= blocks;
        assert_int_equal(dealt ? rows : 0, dealt ? (uint64_t)ops[op].src[K_SRC_LEFT].ne[1] : 0);
    }
    seen.schedules++;
    seen.ring_from = s->ring_from;
}

static void read_case(graph_case *c) {
    sp_error error = {0};
    sp_program *program = NULL;
    sp_spec *spec = specialise_case(c, &program);
    uint8_t *pages = new_pages(REGION), *weights = new_pages(c->weight_bytes + 4096);
    sp_device *device = NULL;
    memset(&seen, 0, sizeof seen);
    fake.maps = 0;
    fake.command = 0;
    if (sp_device_open("cuda:0", 0, &device, &error) != SP_OK) {
        fail_msg("%s", error.message);
    }
    run_case(c, device, spec, weights, pages, 1);
    sp_device_close(device);
    assert_int_equal(seen.schedules, 1);
    assert_int_equal(fake.held, 0);
    munmap(pages, REGION);
    munmap(weights, c->weight_bytes + 4096);
    sp_spec_free(spec);
    sp_program_free(program);
    sp_graph_free(&c->g);
}

/* Columns of products of all types that are streamed, of short and long rows, gated ones, and one that is not. */
static void test_products(void **state) {
    (void)state;
    static const uint32_t types[] = {SP_TYPE_Q4_0, SP_TYPE_Q8_0, SP_TYPE_F16};
    for (int64_t n = 512; n <= 32768; n *= 4) {
        graph_case one, *c = &one;
        begin_case(c, "products of a column", 0);
        sp_graph *g = &c->g;
        sp_tensor x = add_window(c, IN, SP_TYPE_F32, n, 1, 1, 1);
        for (int i = 0; i < 3; i++) {
            sp_tensor narrow = sp_mul_mat(g, model_weight(c, types[i], n, 1000 + 24 * i, 1), x);
            result(c, narrow, SP_TYPE_F32, 1000 + 24 * i, 1, 1, 1);
        }
        sp_tensor gate = sp_mul_mat(g, model_weight(c, SP_TYPE_Q4_0, n, 768, 1), x), up = sp_mul_mat(g, model_weight(c, SP_TYPE_Q4_0, n, 768, 1), x);
        sp_tensor gated = sp_graph_op2(g, SP_OP_SWIGLU, gate, up);
        sp_tensor other = sp_mul_mat(g, model_weight(c, SP_TYPE_Q6_K, 768, 512, 1), gated); /* by its own kernel, in a slot */
        result(c, sp_mul_mat(g, model_weight(c, SP_TYPE_Q8_0, 512, 256, 1), other), SP_TYPE_F32, 256, 1, 1, 1);
        read_case(c);
        assert_int_equal(seen.ring_from, 0);
        assert_true(seen.streams > fake_blocks());
        assert_true(seen.own > 0);
        assert_int_equal(fake.maps, 0);
    }
}

/* Attention to a cache has a slot between products. */
static void test_attention(void **state) {
    (void)state;
    enum { N = 512, SEEN = 512 };
    for (int64_t d = 64; d <= 256; d *= 2) {
        graph_case one, *c = &one;
        begin_case(c, "attention between products", 0);
        sp_graph *g = &c->g;
        sp_tensor x = add_window(c, IN, SP_TYPE_F32, N, 1, 1, 1), place = row_ids(c, SP_TYPE_I64, 1, 1, 1, SEEN, true), rows[2];
        sp_tensor q = sp_mul_mat(g, model_weight(c, SP_TYPE_Q8_0, N, N, 1), x);
        for (int r = 0; r < 2; r++) {
            sp_tensor made = sp_mul_mat(g, model_weight(c, SP_TYPE_Q8_0, N, d, 1), x), cache = add_window(c, OUT, SP_TYPE_F16, d, SEEN, 1, 1);
            rows[r] = sp_set_rows(g, cache, made, place);
            rows[r] = sp_view_3d(g, rows[r], sp_dim(d), sp_dim(SEEN), sp_dim(1), sp_dim(d * 2), sp_dim(d * 2), sp_dim(0));
        }
        q = sp_permute(g, sp_reshape_3d(g, q, sp_dim(d), sp_dim(N / d), sp_dim(1)), 0, 2, 1, 3);
        sp_tensor attended = sp_reshape_2d(g, sp_flash_attn_ext(g, q, rows[0], rows[1], SP_NONE, 0.1f, 0, 0), sp_dim(N), sp_dim(1));
        result(c, sp_mul_mat(g, model_weight(c, SP_TYPE_F16, N, N, 1), attended), SP_TYPE_F32, N, 1, 1, 1);
        read_case(c);
        assert_true(seen.own > 0);
        assert_true(seen.streams > fake_blocks());
    }
}

/* Tiles take the ring's memory: what is streamed before the last of them goes without. */
static void test_tiles(void **state) {
    (void)state;
    static const uint32_t types[] = {SP_TYPE_Q4_0, SP_TYPE_Q8_0, SP_TYPE_F16};
    for (int i = 0; i < 3; i++) {
        graph_case one, *c = &one;
        begin_case(c, "tiles, then a column", 0);
        sp_graph *g = &c->g;
        sp_tensor x = add_window(c, IN, SP_TYPE_F32, 512, 64, 1, 1), ids = row_ids(c, SP_TYPE_I32, 1, 1, 1, 64, true);
        sp_tensor many = sp_mul_mat(g, model_weight(c, types[i], 512, 1024, 1), x);
        result(c, sp_mul_mat(g, model_weight(c, types[i], 1024, 512, 1), sp_get_rows(g, many, ids)), SP_TYPE_F32, 512, 1, 1, 1);
        read_case(c);
        assert_true(fake.maps > 0 && fake.maps % K_MAPS == 0);
        assert_true(seen.ring_from > 0 && seen.streams > 0);
    }
}

static int open_fake(void **state) {
    (void)state;
    sp_error err = {0};
    fake.major = 9;
    fake.instead = check_schedule;
    return sp_cuda_emulated_open(&fake.card, &err) == SP_OK ? 0 : -1;
}
static int close_fake(void **state) {
    (void)state;
    fake.card->ops->close(fake.card);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_attention), cmocka_unit_test(test_tiles)};
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, open_fake, close_fake);
}
