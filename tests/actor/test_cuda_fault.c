/*
 * A card fails in the middle of an answer (device/fake_cuda.h): the actors on it end with an error that says why, the host goes on, and what was
 * frozen before is taken up on the CPU. And the emulated card can't be started for want of memory.
 */
#include <pthread.h>
#include <sys/resource.h>

#include "actor_test.h"
#include "device/fake_cuda.h"
#include "threads.h"

enum { THREADS = SOME_THREADS(2), CONTEXT = 512, LENGTH = 24 };

/* Steps until one fails, for the driver's reason; the next is none. */
static void expect_fault(session *s) {
    sp_error err = {0};
    sp_step_result result;
    sp_status status = SP_OK;
    while (status == SP_OK && !s->finished) {
        status = sp_actor_step(s->actor, &result, &err);
    }
    assert_int_equal(status, SP_ERR_DEVICE);
    assert_non_null(strstr(err.message, "made to fail with 700"));
    assert_int_equal(sp_actor_step(s->actor, &result, &err), SP_ERR_STATE);
}

/* A session on the card is frozen, and its next answer fails after so many calls of the driver. */
static void fail_after(int calls, const char *model, const char *name) {
    session *s = session_open(model, "cuda:0", THREADS);
    session_greedy(s, CONTEXT, LENGTH);
    session_say(s, SP_LLM_USER, "My name is Ada.");
    assert_non_null(strstr(s->text, "Ada"));
    sp_session *file = create_session(s, name);
    freeze(s, file);
    sp_session_close(file);

    fake.fail_at = fake.calls + calls, fake.fail_with = FAKE_ILLEGAL_ADDRESS, fake.for_good = true;
    ask(s, SP_LLM_USER, "What is my name?");
    expect_fault(s);
    respawn(s);
    session_ask_greedy(s, CONTEXT, LENGTH);
    assert_non_null(strstr(s->problem, "cuda:0 has failed before: ")); /* its guest was told */
    session_close(s);
    fake.fail_at = FAKE_NEVER, fake.for_good = false;
    assert_int_equal(fake.held, 0);
}

static void go_on_elsewhere(const char *model, const char *name) {
    session *s = session_open(model, "cpu", THREADS);
    sp_session *file = open_session(name);
    thaw(s, file, 0);
    session_say(s, SP_LLM_USER, "What is my name?");
    assert_non_null(strstr(s->text, "Ada"));
    sp_session_close(file);
    session_close(s);
}

static void test_fault(void **state) {
    (void)state;
    char *model = pocket_path(), name[32];
    sp_error err = {0};
    assert_int_equal(sp_cuda_emulated_open(&fake.card, &err), SP_OK);
    for (int calls = 0; calls < 30; calls += 1 + calls / 2) {
        snprintf(name, sizeof name, "%d.session", calls);
        fail_after(calls, model, name);
        go_on_elsewhere(model, name);
    }
    fake.card->ops->close(fake.card);
    free(model);
    empty_folder();
}

/* Threads want stacks of so much; beside what is taken there is room for one, and a half. */
enum { STACK = 64 << 20 };

/* Returns what they wanted before. */
static size_t want_stacks(size_t bytes) {
    pthread_attr_t attributes;
    size_t before = 0;
    assert_int_equal(pthread_getattr_default_np(&attributes), 0);
    assert_int_equal(pthread_attr_getstacksize(&attributes, &before), 0);
    assert_int_equal(pthread_attr_setstacksize(&attributes, bytes), 0);
    assert_int_equal(pthread_setattr_default_np(&attributes), 0);
    pthread_attr_destroy(&attributes);
    return before;
}

static rlim_t taken(void) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu", &pages), 1);
    fclose(file);
    return pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* What is moved once more is moved by the emulated card's threads: they are started. */
static sp_status use_threads(sp_error *err) {
    enum { BYTES = 1 << 16 };
    static _Alignas(BYTES) uint8_t pages[BYTES];
    sp_device *device = NULL;
    sp_device_memory *memory = NULL;
    assert_int_equal(sp_device_open("cuda-emulated", THREADS, &device, err), SP_OK);
    assert_int_equal(sp_device_memory_open(device, pages, BYTES, &memory, err), SP_OK);
    assert_int_equal(sp_device_memory_sync(memory, 0, BYTES, SP_SYNC_TO_DEVICE, err), SP_OK);
    const sp_status status = sp_device_memory_sync(memory, 0, BYTES, SP_SYNC_TO_DEVICE, err);
    sp_device_memory_close(memory);
    sp_device_close(device);
    return status;
}

/* Some of the emulated card's threads are started, then there is no memory for the next: it says so, and those that wait for it end. */
static void test_no_threads(void **state) {
    (void)state;
    struct rlimit before, limit;
    sp_error err = {0};
    const size_t stack = want_stacks(STACK);
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    limit = before;
    limit.rlim_cur = taken() + STACK + STACK / 2;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    const sp_status status = use_threads(&err);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(status, SP_ERR_DEVICE);
    assert_non_null(strstr(err.message, "can't start the threads of the emulated device"));
    want_stacks(stack);
    assert_int_equal(use_threads(&err), SP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_threads), cmocka_unit_test(test_fault)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
