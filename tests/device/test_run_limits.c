/*
 * What a run may take of a device: time and work space; and products, rope and the like whose ggml kernels do not check what they assume: each was
 * found by a generated program, ended the process or gave wrong numbers, and has a case of its own here.
 */
#include "program/program_test.h"

#include <sys/mman.h>

#include "device/device.h"
#include "oracle/numbers.h"
#include "oracle/weights.h"

#define G (&b->g)
enum { SLOT = 64 << 20 };

typedef struct setup {
    sp_device *device;
    sp_device_weights *weights;
    sp_workspace *workspace;
    uint8_t *pages[2];
    sp_device_memory *memory[2];
} setup;

static void must(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        fail_msg("%s", err->message);
    }
}

static setup open_device(uint64_t limit_bytes) {
    setup s = {0};
    sp_error err = {0};
    must(sp_device_open("cpu", 1, &s.device, &err), &err);
    must(sp_device_weights_open(s.device, weight_pool_table(), NULL, NULL, &s.weights, &err), &err);
    must(sp_workspace_open(s.device, limit_bytes, &s.workspace, &err), &err);
    for (int i = 0; i < 2; i++) {
        s.pages[i] = mmap(NULL, SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(s.pages[i] != MAP_FAILED);
        must(sp_device_memory_open(s.device, s.pages[i], SLOT, &s.memory[i], &err), &err);
    }
    return s;
}

static void close_device(setup *s) {
    for (int i = 0; i < 2; i++) {
        sp_device_memory_close(s->memory[i]);
        munmap(s->pages[i], SLOT);
    }
    sp_workspace_close(s->workspace);
    sp_device_weights_close(s->weights);
    sp_device_close(s->device);
}

/* Runs the graph once; the graph is freed. */
static sp_status run(setup *s, bench *b, sp_error *err) {
    uint32_t size;
    const void *bytes = sp_graph_bytes(G, &size);
    sp_program *program = NULL;
    sp_spec *spec = NULL;
    sp_executable *executable = NULL;
    must(sp_program_load(bytes, size, &described_weights, &program, err), err);
    must(sp_program_specialise(program, NULL, 0, NULL, &spec, err), err);
    const sp_slot_binding bindings[2] = {{.memory = s->memory[IN], .length = SLOT}, {.memory = s->memory[STATE], .length = SLOT}};
    sp_status status = sp_device_prepare(s->workspace, spec, bindings, &s->weights, 1, &executable, err);
    status = status ? status : sp_device_execute(executable, err);
    sp_executable_close(executable);
    sp_spec_free(spec);
    sp_program_free(program);
    sp_graph_free(G);
    return status;
}

/* A chain of products, each of which takes a while: the run ends between two of them. */
static void test_time(void **state_) {
    (void)state_;
    setup s = open_device(UINT64_C(1) << 30);
    sp_error err = {0};
    for (int limited = 0; limited < 2; limited++) {
        bench bench_ = new_bench(), *b = &bench_;
        sp_tensor a = f32(b, 1024, 1024, 1, 1), x = f32(b, 1024, 256, 1, 1);
        for (int i = 0; i < (limited ? 2000 : 2); i++) {
            x = sp_mul_mat(G, a, x);
        }
        sp_workspace_limit_time(s.workspace, limited);
        const sp_status status = run(&s, b, &err);
        assert_int_equal(status, limited ? SP_ERR_LIMIT : SP_OK);
    }
    assert_non_null(strstr(err.message, "the limit is 1"));
    /* The next run is as if there had been none. */
    bench bench_ = new_bench(), *b = &bench_;
    sp_neg(G, f32(b, 4, 1, 1, 1));
    sp_workspace_limit_time(s.workspace, 60000);
    must(run(&s, b, &err), &err);
    close_device(&s);
}

/* What ggml takes for itself counts: b of a product is converted as a whole. */
static void test_work_space(void **state_) {
    (void)state_;
    setup s = open_device(1 << 20);
    sp_error err = {0};
    bench bench_ = new_bench(), *b = &bench_;
    sp_tensor out = state(b, SP_TYPE_F32, 8, 8192, 1, 1);
    sp_graph_into(G, sp_mul_mat(G, weight(b, SP_TYPE_Q4_0, 256, 8, 1, 1), f32(b, 256, 8192, 1, 1)), out);
    assert_int_equal(run(&s, b, &err), SP_ERR_LIMIT);
    assert_non_null(strstr(err.message, "work space"));
    close_device(&s);
}

static float *numbers(setup *s, int slot, size_t n) {
    float *at = (float *)(void *)s->pages[slot];
    for (size_t i = 0; i < n; i++) {
        at[i] = (float)(int)(i * 7919 % 64) / 32 - 1;
    }
    return at;
}

/* result [8, rows] of a weight [256, 8] and rows of 256 that lie `stride` floats apart. */
static void check_product(setup *s, const float *x, int64_t rows, int64_t stride) {
    const gen_weight wanted = {.type = SP_TYPE_Q4_0, .ne = {256, 8, 1, 1}};
    const sp_weight_table *table = weight_pool_table();
    double w[256];
    for (uint32_t i = 0; i < table->n; i++) {
        if (table->entries[i].type != wanted.type || memcmp(table->entries[i].ne, wanted.ne, sizeof wanted.ne) != 0) {
            continue;
        }
        for (int64_t r = 0; r < 8; r++) {
            numbers_read_row(wanted.type, (const uint8_t *)table->base + table->entries[i].offset + (uint64_t)r * 144, 18, 256, w);
            for (int64_t c = 0; c < rows; c++) {
                double sum = 0;
                for (int k = 0; k < 256; k++) {
                    sum += w[k] * (double)x[c * stride + k];
                }
                const float got = ((const float *)(const void *)s->pages[STATE])[c * 8 + r];
                assert_true(fabs((double)got - sum) < 0.5);
            }
        }
    }
}

/* Weights in a faster layout: b of four dimensions made ggml abort, rows with gaps were read without them. */
static void test_packed_products(void **state_) {
    (void)state_;
    setup s = open_device(UINT64_C(1) << 30);
    sp_error err = {0};
    for (int padded = 0; padded < 2; padded++) {
        bench bench_ = new_bench(), *b = &bench_;
        sp_tensor out = state(b, SP_TYPE_F32, 8, 8, 1, padded ? 1 : 2);
        sp_tensor x = padded ? strided(b, f32(b, 8192, 1, 1, 1), 256, 8, 1, 1, 1040, 8320, 8320, 0) : f32(b, 256, 8, 1, 2);
        sp_graph_into(G, sp_mul_mat(G, weight(b, SP_TYPE_Q4_0, 256, 8, 1, 1), x), out);
        const float *in = numbers(&s, IN, 8192);
        must(run(&s, b, &err), &err);
        check_product(&s, in, padded ? 8 : 16, padded ? 260 : 256);
    }
    close_device(&s);
}

/* Results over a source that later rows read: add_id of one row of b, which is a temporary of a's shape. */
static void test_sources_are_kept(void **state_) {
    (void)state_;
    setup s = open_device(UINT64_C(1) << 30);
    sp_error err = {0};
    bench bench_ = new_bench(), *b = &bench_;
    sp_tensor a = f32(b, 32, 2, 1, 1), chosen = ids(b, 2, 1), out = state(b, SP_TYPE_F32, 32, 2, 1, 1);
    sp_cpy(G, sp_add_id(G, a, sp_neg(G, a), chosen), out);
    const float *in = numbers(&s, IN, 64);
    must(run(&s, b, &err), &err);
    const float *got = (const float *)(const void *)s.pages[STATE];
    for (int i = 0; i < 64; i++) {
        assert_true(got[i] == in[i] - in[i % 32]);
    }
    close_device(&s);
}

/* Two negations, and copies of the second, and of the first or the second again: graphs of as many nodes, of which one needs the first for longer. */
static void negate_twice(setup *s, bool first_again) {
    bench bench_ = new_bench(), *b = &bench_;
    sp_error err = {0};
    sp_tensor once = sp_neg(G, f32(b, 64, 1, 1, 1)), twice = sp_neg(G, once);
    sp_cpy(G, twice, state(b, SP_TYPE_F32, 64, 1, 1, 1));
    sp_cpy(G, first_again ? once : twice, state(b, SP_TYPE_F32, 64, 1, 1, 1));
    must(run(s, b, &err), &err);
}

/* ggml's allocator takes a graph for the one before if it has as many nodes, of the same sizes: it must not place one program's results as another's.
 */
static void test_programs_of_one_size(void **state_) {
    (void)state_;
    setup s = open_device(1 << 20);
    const float *x = numbers(&s, IN, 64), *out = (const float *)(const void *)s.pages[STATE];
    for (int round = 0; round < 4; round++) {
        negate_twice(&s, round % 2);
        for (int i = 0; i < 64; i++) {
            assert_true(out[i] == x[i] && out[1024 + i] == (round % 2 ? -x[i] : x[i]));
        }
    }
    close_device(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_time), cmocka_unit_test(test_work_space), cmocka_unit_test(test_packed_products),
                                       cmocka_unit_test(test_sources_are_kept), cmocka_unit_test(test_programs_of_one_size)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
