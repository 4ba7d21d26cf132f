/*
 * The part of the CUDA device that speaks with NVIDIA's driver, on machines without one: each of its calls fails once, and once with all behind it;
 * whoever uses the device gets an error that says so, or right results, and nothing is left behind. A kernel that never ends holds nobody up.
 */
#define DEVICE_TEST_REGION (1 << 20)
#include "device_test.h"

#include <sys/wait.h>
#include <unistd.h>

#include "device/cuda/cuda.h"
#include "device/cuda/cuda_impl.h"
#include "fake_cuda.h"

enum { N = 256, ROWS = 32, MOST_CALLS = 2000 };

/* A program, what it works on, and what comes out. */
static struct {
    graph_case c;
    sp_program *program;
    sp_spec *spec;
    uint8_t *weights, *pages, *forked, *right;
} job;

static void make_job(void) {
    graph_case *c = &job.c;
    begin_case(c, "a product and a row", 1e-5);
    sp_tensor x = numbers(c, SP_TYPE_F32, N, 1, 1, 1), row = row_ids(c, SP_TYPE_I64, 1, 1, 1, ROWS, true);
    sp_tensor product = sp_mul_mat(&c->g, model_weight(c, SP_TYPE_Q8_0, N, N, 1), x), cache = add_window(c, OUT, SP_TYPE_F32, N, ROWS, 1, 1);
    sp_set_rows(&c->g, cache, product, row);
    result(c, product, SP_TYPE_F32, N, 1, 1, 1);
    job.spec = specialise_case(c, &job.program);
    job.weights = new_pages(c->weight_bytes + 4096);
    job.pages = new_pages(REGION), job.forked = new_pages(REGION), job.right = new_pages(REGION);
    fill_numbers(SP_TYPE_Q8_0, job.weights, N, N, -1, 1, 0);
    sp_device *cpu = NULL;
    MUST(sp_device_open("cpu", SOME_THREADS(2), &cpu, err));
    fill_window(&c->windows[0], job.right);
    run_case(c, cpu, job.spec, job.weights, job.right, 1);
    sp_device_close(cpu);
}

static void free_job(void) {
    munmap(job.weights, job.c.weight_bytes + 4096);
    munmap(job.pages, REGION);
    munmap(job.forked, REGION);
    munmap(job.right, REGION);
    sp_spec_free(job.spec);
    sp_program_free(job.program);
    sp_graph_free(&job.c.g);
}

/* What a host has of a device. */
typedef struct held {
    sp_device *device;
    bound b;
    sp_device_memory *fork;
    int opened, used; /* calls of the driver until the device was open, and until it was used */
} held;

/* Opens, uploads, shares and prepares. */
static sp_status begin(held *h, const char *device, sp_error *err) {
    const sp_weight_table table = {.base = job.weights, .size = job.c.weight_bytes, .n = job.c.n_weights, .entries = job.c.weights};
    sp_status status = sp_device_open(device, 0, &h->device, err);
    h->opened = fake.calls;
    status = status ? status : sp_device_weights_open(h->device, &table, NULL, NULL, &h->b.weights, err);
    status = status ? status : sp_device_memory_open(h->device, job.pages, REGION, &h->b.memory, err);
    status = status ? status : sp_workspace_open(h->device, 1ull << 30, &h->b.workspace, err);
    const sp_slot_binding bindings[2] = {{h->b.memory, 0, REGION / 2}, {h->b.memory, REGION / 2, REGION / 2}};
    return status ? status : sp_device_prepare(h->b.workspace, job.spec, bindings, &h->b.weights, 1, &h->b.x, err);
}

/* Runs and moves bytes more than once, forks, and writes beside; until something fails. */
static sp_status use(held *h, sp_error *err) {
    sp_status status = begin(h, "cuda:1", err);
    for (int i = 0; i < 2; i++) {
        status = status ? status : sp_device_memory_sync(h->b.memory, 0, REGION, SP_SYNC_TO_DEVICE, err);
        status = status ? status : sp_device_execute(h->b.x, err);
    }
    status = status ? status : sp_device_memory_fork(h->b.memory, job.forked, &h->fork, err);
    memset(job.forked, 1, 100000);
    status = status ? status : sp_device_memory_sync(h->fork, 0, 100000, SP_SYNC_TO_DEVICE, err);
    status = status ? status : sp_device_execute(h->b.x, err); /* writes what the fork has, too */
    status = status ? status : sp_device_memory_sync(h->b.memory, REGION / 2, REGION / 2, SP_SYNC_FROM_DEVICE, err);
    return status ? status : sp_device_memory_sync(h->fork, 0, REGION, SP_SYNC_FROM_DEVICE, err);
}

static void leave(held *h) {
    sp_device_memory_close(h->fork);
    unbind_case(&h->b);
    sp_device_close(h->device);
}

static sp_status play(int fail_at, int with, bool for_good, sp_error *err) {
    held h = {0};
    assert_int_equal(sp_cuda_driver_count(), 2); /* a process starts the driver once */
    fake.calls = 0, fake.failed = NULL, fake.fail_at = fail_at, fake.fail_with = with, fake.for_good = for_good;
    memset(job.pages, 0, REGION);
    memcpy(job.pages, job.right, REGION / 2);
    const sp_status status = use(&h, err);
    h.used = fake.calls;
    if (status == SP_OK) {
        for (uint32_t i = 0; i < job.c.n_windows; i++) {
            if (job.c.windows[i].slot == OUT) {
                check_window(&job.c, &job.c.windows[i], job.pages + REGION / 2, job.right + REGION / 2);
                check_window(&job.c, &job.c.windows[i], job.forked + REGION / 2, job.right + REGION / 2);
            }
        }
        assert_int_equal(job.forked[99999], 1);
        assert_int_equal(job.forked[100000], job.pages[100000]);
    }
    const bool came = fake.failed != NULL;
    leave(&h);
    fake.fail_at = FAKE_NEVER, fake.for_good = false;
    if (fake.held) {
        fail_msg("call %d (%s)%s: %d things are held", fail_at, fake.failed ? fake.failed : "none", for_good ? " and all behind it" : "", fake.held);
    }
    if (status == SP_OK && !for_good && fail_at >= h.opened && fail_at < h.used && strcmp(fake.failed, "cuMemHostRegister_v2") != 0) {
        fail_msg("call %d (%s) failed, and nobody saw it", fail_at, fake.failed);
    }
    if (!came && status != SP_OK) {
        fail_msg("nothing failed, and yet: %s", err->message);
    }
    return status;
}

static int open_fake(void **state) {
    (void)state;
    sp_error err = {0};
    assert_int_equal(sp_cuda_emulated_open(&fake.card, &err), SP_OK);
    make_job();
    return 0;
}
static int close_fake(void **state) {
    (void)state;
    free_job();
    fake.card->ops->close(fake.card);
    return 0;
}

static void test_works(void **state) {
    (void)state;
    sp_error err = {0};
    assert_int_equal(play(FAKE_NEVER, 0, false, &err), SP_OK);
    assert_in_range(fake.calls, 100, MOST_CALLS);
    fake.cant_map = true; /* forks copy */
    assert_int_equal(play(FAKE_NEVER, 0, false, &err), SP_OK);
    fake.cant_map = false;
}

/* A call that fails is said with the driver's own words, unless there was another way. */
static void fail_each(bool for_good, int with) {
    sp_error err = {0};
    char words[40];
    snprintf(words, sizeof words, "made to fail with %d", with);
    int errors = 0, call = 0;
    for (;; call++) {
        assert_true(call < MOST_CALLS);
        memset(&err, 0, sizeof err);
        const sp_status status = play(call, with, for_good, &err);
        if (!fake.failed) {
            break;
        }
        errors += status != SP_OK;
        if (status != SP_OK && !strstr(err.message, words)) {
            fail_msg("call %d (%s): %s", call, fake.failed, err.message);
        }
    }
    assert_in_range(errors, call / 2, call);
}
static void test_out_of_memory(void **state) {
    (void)state;
    fail_each(false, FAKE_OUT_OF_MEMORY);
}
static void test_faults(void **state) {
    (void)state;
    fail_each(true, FAKE_ILLEGAL_ADDRESS);
}

/* Who gives up a device whose kernel never ends asks nothing more of the driver that would wait for it. */
static void test_hangs(void **state) {
    (void)state;
    held h = {0};
    sp_error err = {0}, again = {0};
    fake.hangs = true;
    assert_int_equal(begin(&h, "cuda:0", &err), SP_OK);
    ((cuda_device *)(void *)h.device)->limit_ns = 1000000;
    for (int i = 0; i < 2; i++) { /* so that pages are registered */
        assert_int_equal(sp_device_memory_sync(h.b.memory, 0, 65536, SP_SYNC_TO_DEVICE, &err), i ? SP_ERR_DEVICE : SP_OK);
    }
    assert_non_null(strstr(err.message, "does not end and can't be stopped"));
    assert_int_equal(sp_device_execute(h.b.x, &again), SP_ERR_DEVICE);
    assert_non_null(strstr(again.message, "can't be stopped"));
    assert_int_equal(sp_device_memory_sync(h.b.memory, 0, 300000, SP_SYNC_TO_DEVICE, &again), SP_ERR_DEVICE);
    assert_int_equal(sp_device_memory_fork(h.b.memory, job.forked, &h.fork, &again), SP_ERR_DEVICE);
    leave(&h);
    assert_int_equal(fake.waits_for_ever, 0);
    fake_reset();
}

static void test_list(void **state) {
    (void)state;
    sp_device_info infos[3];
    sp_device *device = NULL;
    sp_error err = {0};
    assert_int_equal(sp_cuda_device_list(infos, 3), 3);
    assert_string_equal(infos[2].name, "cuda:1");
    assert_string_equal(infos[2].description, "a card that is faked, 1");
    assert_int_equal(sp_device_open("cuda:2", 0, &device, &err), SP_ERR_NOT_FOUND);
    assert_string_equal(err.message, "no device \"cuda:2\": the driver knows 2 cards");
    fake.major = 7;
    assert_int_equal(sp_device_open("cuda:0", 0, &device, &err), SP_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "a card that is faked, 0 has compute capability 7.0"));
    fake.major = 8;
}

/* What a process finds once: in one of its own. */
static void expect_problem(const char *words) {
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        sp_device *device = NULL;
        sp_error err = {0};
        const bool right =
            sp_device_open("cuda:0", 0, &device, &err) == SP_ERR_NOT_FOUND && strstr(err.message, words) && sp_cuda_device_list(NULL, 0) == 1;
        fprintf(stderr, "%s", right ? "" : err.message);
        _exit(!right);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}
static void test_no_driver(void **state) {
    (void)state;
    fake.missing = true;
    expect_problem("there is no NVIDIA driver here");
    fake.missing = false;
    fake.lacks = "cuStreamQuery";
    expect_problem("the NVIDIA driver is too old: it lacks cuStreamQuery");
    fake.lacks = NULL;
    fake.fail_at = 0, fake.fail_with = 999;
    expect_problem("the NVIDIA driver does not start: made to fail with 999");
    fake.fail_at = FAKE_NEVER;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_driver),     cmocka_unit_test(test_list),   cmocka_unit_test(test_works),
                                       cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_faults), cmocka_unit_test(test_hangs)};
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, open_fake, close_fake);
}
