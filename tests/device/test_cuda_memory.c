/* Regions of the CUDA device that share memory: forks have their bytes, pay for what they write, and see nothing of each other. */
#include "device_test.h"

#include <pthread.h>

#include "memory/os.h"

/* A card has pieces of 2 MiB, the emulated one of 64 KiB. */
static uint64_t piece(void) {
    return is_card() ? 2 << 20 : 65536;
}
enum { PIECES = 16 };

static uint64_t region_bytes(void) {
    return PIECES * piece();
}

static uint64_t used(const sp_device *device) {
    sp_device_info info;
    sp_device_describe(device, &info);
    return info.memory_total - info.memory_free;
}

/* On a card the driver takes some for itself. */
static void assert_used(const sp_device *device, uint64_t wanted) {
    uint64_t is = used(device), slack = is_card() ? 4 * piece() : 0;
    if (is > wanted + slack || is + slack < wanted) {
        fail_msg("%llu bytes are in use, not %llu", (unsigned long long)is, (unsigned long long)wanted);
    }
}

static void ok(sp_status status, const sp_error *err) {
    if (status != SP_OK) {
        fail_msg("%s: %s", sp_status_name(status), err->message);
    }
}

/* A region and its pages. */
typedef struct place {
    sp_device_memory *memory;
    uint8_t *pages;
} place;

static place open_place(sp_device *device, uint8_t value) {
    place p = {.pages = new_pages(region_bytes())};
    sp_error err = {0};
    memset(p.pages, value, region_bytes());
    ok(sp_device_memory_open(device, p.pages, region_bytes(), &p.memory, &err), &err);
    ok(sp_device_memory_sync(p.memory, 0, region_bytes(), SP_SYNC_TO_DEVICE, &err), &err);
    return p;
}

static place fork_place(const place *from) {
    place p = {.pages = new_pages(region_bytes())};
    sp_error err = {0};
    ok(sp_device_memory_fork(from->memory, p.pages, &p.memory, &err), &err);
    return p;
}

static void close_place(place *p) {
    sp_device_memory_close(p->memory);
    munmap(p->pages, region_bytes());
}

static void put(const place *p, uint64_t offset, uint64_t length, uint8_t value) {
    sp_error err = {0};
    memset(p->pages + offset, value, length);
    ok(sp_device_memory_sync(p->memory, offset, length, SP_SYNC_TO_DEVICE, &err), &err);
}

/* All of the range is `value` on the device. */
static void expect(const place *p, uint64_t offset, uint64_t length, uint8_t value) {
    sp_error err = {0};
    memset(p->pages + offset, ~value, length);
    ok(sp_device_memory_sync(p->memory, offset, length, SP_SYNC_FROM_DEVICE, &err), &err);
    for (uint64_t i = 0; i < length; i++) {
        if (p->pages[offset + i] != value) {
            fail_msg("byte %llu is %u, not %u", (unsigned long long)(offset + i), p->pages[offset + i], value);
        }
    }
}

static void test_forks_share(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    enum { FORKS = 20 };
    place parent = open_place(device, 7), forks[FORKS];
    uint64_t before = used(device);
    put(&parent, 100, 16, 8); /* waits for the next command: a fork made now has it */
    for (int i = 0; i < FORKS; i++) {
        forks[i] = fork_place(&parent);
    }
    assert_used(device, before);
    for (int i = 0; i < FORKS; i++) {
        put(&forks[i], (uint64_t)(i % PIECES) * piece() + 200, 100, (uint8_t)(20 + i)); /* one piece each */
    }
    assert_used(device, before + FORKS * piece());
    put(&parent, piece(), 2 * piece() + 1, 9); /* three pieces that others have too */
    assert_used(device, before + (FORKS + 3) * piece());
    for (int i = 0; i < FORKS; i++) {
        uint64_t at = (uint64_t)(i % PIECES) * piece();
        expect(&forks[i], at + 200, 100, (uint8_t)(20 + i));
        expect(&forks[i], at + 300, piece() - 300, 7);
        expect(&forks[i], (at + piece()) % region_bytes() + 200, piece() - 200, 7);
        expect(&forks[i], 100, 16, 8);
    }
    expect(&parent, piece(), 2 * piece() + 1, 9);
    expect(&parent, 0, 100, 7);
    place grandchild = fork_place(&forks[3]);
    close_place(&forks[3]);
    close_place(&parent);
    put(&grandchild, 3 * piece(), piece(), 1);
    expect(&grandchild, 2 * piece(), piece(), 7);
    expect(&forks[0], piece(), region_bytes() - piece(), 7);
    close_place(&grandchild);
    for (int i = 0; i < FORKS; i++) {
        if (i != 3) {
            close_place(&forks[i]);
        }
    }
    assert_used(device, before - region_bytes());
}

/* A region too small for pieces is copied. */
static void test_small(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    sp_error err = {0};
    uint64_t page = sp_os_page_size();
    place a = {.pages = new_pages(page)}, b = {.pages = new_pages(page)};
    memset(a.pages, 3, page);
    ok(sp_device_memory_open(device, a.pages, page, &a.memory, &err), &err);
    ok(sp_device_memory_sync(a.memory, 0, page, SP_SYNC_TO_DEVICE, &err), &err);
    ok(sp_device_memory_fork(a.memory, b.pages, &b.memory, &err), &err);
    put(&a, 0, page, 4);
    expect(&b, 0, page, 3);
    sp_device_memory_close(a.memory);
    sp_device_memory_close(b.memory);
    munmap(a.pages, page);
    munmap(b.pages, page);
}

enum { WIDTH = 256, ROWS_EACH = 3 }; /* rows of 1 KiB */

/* The graph's program; the graph is freed. */
static sp_spec *end_program(sp_graph *g, sp_program **program) {
    sp_error err = {0};
    uint32_t size;
    const void *bytes = sp_graph_bytes(g, &size);
    sp_spec *spec = NULL;
    ok(sp_program_load(bytes, size, NULL, program, &err), &err);
    ok(sp_program_specialise(*program, NULL, 0, NULL, &spec, &err), &err);
    sp_graph_free(g);
    return spec;
}

/* Rows are set by ids, and a window at the end gets their sum. */
static sp_spec *make_program(sp_program **program, int64_t rows) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_STATE);
    sp_tensor ids = sp_graph_memory_1d(&g, "ids", in, SP_TYPE_I64, sp_dim(ROWS_EACH), sp_dim(0));
    sp_tensor new_rows = sp_graph_memory_2d(&g, "rows", in, SP_TYPE_F32, sp_dim(WIDTH), sp_dim(ROWS_EACH), sp_dim(256));
    sp_tensor cache = sp_graph_memory_2d(&g, "cache", out, SP_TYPE_F32, sp_dim(WIDTH), sp_dim(rows), sp_dim(0));
    sp_tensor sums = sp_graph_memory_2d(&g, "sums", out, SP_TYPE_F32, sp_dim(1), sp_dim(ROWS_EACH), sp_dim(rows * WIDTH * 4));
    sp_set_rows(&g, cache, new_rows, ids);
    sp_graph_into(&g, sp_sum_rows(&g, new_rows), sums);
    return end_program(&g, program);
}

/* What a run writes is copied before, and nothing else: three rows in two pieces, and the sums in the last. */
static void test_runs(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    sp_error err = {0};
    int64_t rows = (int64_t)(region_bytes() / (WIDTH * 4)) - 1, per_piece = (int64_t)(piece() / (WIDTH * 4));
    const int64_t ids[ROWS_EACH] = {5, 6, 4 * per_piece};
    sp_program *program = NULL;
    sp_spec *spec = make_program(&program, rows);
    place parent = open_place(device, 0), input = open_place(device, 0), child = fork_place(&parent), sibling = fork_place(&parent);
    memcpy(input.pages, ids, sizeof ids);
    for (int i = 0; i < WIDTH * ROWS_EACH; i++) {
        ((float *)(void *)(input.pages + 256))[i] = 0.5f;
    }
    ok(sp_device_memory_sync(input.memory, 0, 256 + WIDTH * ROWS_EACH * 4, SP_SYNC_TO_DEVICE, &err), &err);
    sp_workspace *workspace = NULL;
    sp_executable *x = NULL;
    const sp_slot_binding bindings[2] = {{input.memory, 0, region_bytes()}, {child.memory, 0, region_bytes()}};
    ok(sp_workspace_open(device, 1ull << 30, &workspace, &err), &err);
    ok(sp_device_prepare(workspace, spec, bindings, NULL, 0, &x, &err), &err);
    uint64_t before = used(device);
    ok(sp_device_execute(x, &err), &err);
    ok(sp_device_execute(x, &err), &err);
    assert_used(device, before + 3 * piece());
    ok(sp_device_memory_sync(child.memory, 0, region_bytes(), SP_SYNC_FROM_DEVICE, &err), &err);
    for (int64_t row = 0; row < rows; row++) {
        const float *at = (const float *)(const void *)(child.pages + row * WIDTH * 4), wanted = row == 5 || row == 6 || row == ids[2] ? 0.5f : 0;
        if (at[0] != wanted || at[WIDTH - 1] != wanted) {
            fail_msg("row %lld is of %g", (long long)row, (double)at[0]);
        }
    }
    const float *sums = (const float *)(const void *)(child.pages + rows * WIDTH * 4);
    assert_true(sums[0] == WIDTH * 0.5f && sums[ROWS_EACH - 1] == WIDTH * 0.5f);
    expect(&parent, 0, region_bytes(), 0);
    expect(&sibling, 0, region_bytes(), 0);
    sp_executable_close(x);
    sp_workspace_close(workspace);
    close_place(&child);
    close_place(&sibling);
    close_place(&parent);
    close_place(&input);
    sp_spec_free(spec);
    sp_program_free(program);
}

enum { VOCABULARY = 20011, N_ROWS = 3, ANSWER_AT = 4096 }; /* a row goes over several blocks */

/* By row, which number is the largest: a small output. */
static sp_spec *make_argmax(sp_program **program) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t in = sp_graph_slot(&g, "in", SP_SLOT_READ), out = sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT);
    sp_tensor rows = sp_graph_memory_2d(&g, "rows", in, SP_TYPE_F32, sp_dim(VOCABULARY), sp_dim(N_ROWS), sp_dim(0));
    sp_tensor largest = sp_graph_memory_1d(&g, "largest", out, SP_TYPE_I32, sp_dim(N_ROWS), sp_dim(0));
    sp_graph_into(&g, sp_argmax(&g, rows), largest);
    return end_program(&g, program);
}

static void expect_largest(const place *out, int32_t first, int32_t second, int32_t third) {
    const int32_t wanted[N_ROWS] = {first, second, third};
    sp_error err = {0};
    memset(out->pages + ANSWER_AT, 0xee, sizeof wanted);
    ok(sp_device_memory_sync(out->memory, ANSWER_AT + 4, sizeof wanted - 4, SP_SYNC_FROM_DEVICE, &err), &err);
    ok(sp_device_memory_sync(out->memory, ANSWER_AT, 4, SP_SYNC_FROM_DEVICE, &err), &err);
    const int32_t *got = (const int32_t *)(const void *)(out->pages + ANSWER_AT);
    for (int i = 0; i < N_ROWS; i++) {
        assert_int_equal(got[i], wanted[i]);
    }
}

/* A small output comes back with the run, and is no longer what is there when something else was written. Of equal numbers the first is found. */
static void test_answer(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    sp_error err = {0};
    sp_program *program = NULL;
    sp_spec *spec = make_argmax(&program);
    place in = open_place(device, 0), out = open_place(device, 0);
    float *rows = (float *)(void *)in.pages, *second = rows + VOCABULARY, *third = second + VOCABULARY;
    sp_workspace *workspace = NULL;
    sp_executable *x = NULL;
    const sp_slot_binding bindings[2] = {{in.memory, 0, region_bytes()}, {out.memory, ANSWER_AT, 64}};
    ok(sp_workspace_open(device, 1ull << 30, &workspace, &err), &err);
    ok(sp_device_prepare(workspace, spec, bindings, NULL, 0, &x, &err), &err);
    for (int i = 0; i < VOCABULARY; i++) {
        rows[i] = -1;
        second[i] = i % 3 ? (float)-i : NAN;
        third[i] = i % 2 ? -INFINITY : NAN;
    }
    rows[777] = rows[778] = rows[VOCABULARY - 1] = 5;
    for (int round = 0; round < 3; round++) {
        second[VOCABULARY - 2 - round] = 1e30f;
        ok(sp_device_memory_sync(in.memory, 0, region_bytes(), SP_SYNC_TO_DEVICE, &err), &err);
        put(&out, 0, 2 * ANSWER_AT, 9);
        ok(sp_device_execute(x, &err), &err);
        expect_largest(&out, 777, VOCABULARY - 2 - round, 0);
        expect(&out, ANSWER_AT + 12, 100, 9);
        put(&out, ANSWER_AT + 4, 4, 9);
        expect_largest(&out, 777, 0x09090909, 0);
        ok(sp_device_execute(x, &err), &err);
        ok(sp_device_execute(x, &err), &err);
        expect_largest(&out, 777, VOCABULARY - 2 - round, 0);
    }
    for (int i = 0; i < VOCABULARY; i++) {
        rows[i] = i % 2 ? -0.0f : 0.0f;
    }
    ok(sp_device_memory_sync(in.memory, 0, region_bytes(), SP_SYNC_TO_DEVICE, &err), &err);
    ok(sp_device_execute(x, &err), &err);
    expect_largest(&out, 0, VOCABULARY - 4, 0);
    sp_executable_close(x);
    sp_workspace_close(workspace);
    close_place(&in);
    close_place(&out);
    sp_spec_free(spec);
    sp_program_free(program);
}

enum { FEW = 40, RESULT = 16 }; /* numbers that one warp takes, more than it has lanes; and those that are an output that comes back */

/* Twice a row, in place, and a piece of it clamped, into an output: programs of one operation each. */
static sp_spec *make_few(sp_program **program, bool clamps) {
    sp_graph g;
    sp_graph_init(&g);
    uint32_t slot = sp_graph_slot(&g, "x", SP_SLOT_STATE), out = clamps ? sp_graph_slot(&g, "out", SP_SLOT_WRITE | SP_SLOT_OUTPUT) : SP_NONE;
    sp_tensor x = sp_graph_memory_1d(&g, "x", slot, SP_TYPE_F32, sp_dim(clamps ? RESULT : FEW), sp_dim(0));
    if (clamps) {
        sp_graph_into(&g, sp_clamp(&g, x, -20, 100), sp_graph_memory_1d(&g, "y", out, SP_TYPE_F32, sp_dim(RESULT), sp_dim(0)));
    } else {
        sp_graph_into(&g, sp_scale(&g, x, 2), x);
    }
    return end_program(&g, program);
}

/* Programs that one warp runs see what was written just before, and what they write is there for the next and for the host. */
static void test_few(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    sp_error err = {0};
    sp_program *programs[2] = {NULL, NULL};
    sp_spec *doubles = make_few(&programs[0], false), *clamps = make_few(&programs[1], true);
    place in = open_place(device, 0), out = open_place(device, 0);
    float *x = (float *)(void *)in.pages, *y = (float *)(void *)(out.pages + ANSWER_AT);
    sp_workspace *workspace = NULL;
    sp_executable *first = NULL, *second = NULL;
    const sp_slot_binding bindings[2] = {{in.memory, 0, region_bytes()}, {out.memory, ANSWER_AT, 4096}};
    ok(sp_workspace_open(device, 1ull << 30, &workspace, &err), &err);
    ok(sp_device_prepare(workspace, doubles, bindings, NULL, 0, &first, &err), &err);
    ok(sp_device_prepare(workspace, clamps, bindings, NULL, 0, &second, &err), &err);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < FEW; i++) {
            x[i] = (float)(i * (round + 1) - 30);
        }
        put(&out, 0, 2 * ANSWER_AT, 9);
        ok(sp_device_memory_sync(in.memory, 0, FEW * sizeof(float), SP_SYNC_TO_DEVICE, &err), &err);
        for (int times = 0; times <= round; times++) {
            ok(sp_device_execute(first, &err), &err);
        }
        ok(sp_device_execute(second, &err), &err);
        memset(x, 0xee, FEW * sizeof(float));
        ok(sp_device_memory_sync(in.memory, 0, FEW * sizeof(float), SP_SYNC_FROM_DEVICE, &err), &err);
        ok(sp_device_memory_sync(out.memory, ANSWER_AT, RESULT * sizeof(float), SP_SYNC_FROM_DEVICE, &err), &err);
        for (int i = 0; i < FEW; i++) {
            float wanted = (float)(i * (round + 1) - 30) * (float)(2 << round), least = wanted < -20 ? -20 : wanted;
            assert_true(x[i] == wanted);
            assert_true(i >= RESULT || y[i] == (least > 100 ? 100 : least));
        }
        expect(&out, ANSWER_AT + RESULT * sizeof(float), 100, 9);
    }
    sp_executable_close(first);
    sp_executable_close(second);
    sp_workspace_close(workspace);
    close_place(&in);
    close_place(&out);
    sp_spec_free(doubles);
    sp_spec_free(clamps);
    sp_program_free(programs[0]);
    sp_program_free(programs[1]);
}

/* What is moved again and again is registered; other pages mapped in its place are found, once the device was told. */
static void test_pages_replaced(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    place p = open_place(device, 0);
    for (int round = 0; round < 6; round++) {
        for (int again = 0; again < 3; again++) {
            put(&p, 8192, 3 * 8192, (uint8_t)(round * 3 + again));
            expect(&p, 8192, 3 * 8192, (uint8_t)(round * 3 + again));
            put(&p, 3 * 8192, 4 * 8192, 100);
            expect(&p, 8192, 2 * 8192, (uint8_t)(round * 3 + again));
        }
        sp_device_memory_let_go(p.memory);
        assert_true(sp_os_map_zeros(p.pages, region_bytes()));
    }
    close_place(&p);
}

enum { THREADS = 4, ROUNDS = 40 };

/* One of several that fork the same region, write and close, each for itself. */
static void *use_fork(void *user) {
    const place *parent = user;
    place mine = fork_place(parent);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t at = (uint64_t)(round % PIECES) * piece() + 64;
        place child = fork_place(&mine);
        put(&mine, at, 9000, (uint8_t)round);
        expect(&child, at + 9000, 9000, 7);
        put(&child, at, 9000, 99);
        expect(&mine, at, 9000, (uint8_t)round);
        close_place(&child);
    }
    close_place(&mine);
    return NULL;
}

static void test_threads(void **state) {
    sp_device *device = ((const devices *)*state)->tested;
    uint64_t before = used(device);
    place parent = open_place(device, 7);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, use_fork, &parent), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    expect(&parent, 0, region_bytes(), 7);
    close_place(&parent);
    assert_used(device, before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forks_share), cmocka_unit_test(test_small),  cmocka_unit_test(test_runs), cmocka_unit_test(test_pages_replaced),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_answer), cmocka_unit_test(test_few),
    };
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
