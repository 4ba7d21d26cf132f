/*
 * A thousand actors for the price of the pages that differ.
 *     ASKED=1000   forks that are told a fact and asked for it (the suite: 12)
 *     SAMEPAGE_TEST_DEVICE=cuda:0   a card in place of the emulated one
 */
#include "actor_test.h"
#include "threads.h"

#include <fcntl.h>

#ifdef __SANITIZE_THREAD__ /* which leaves less address space than a thousand memories reserve */
enum { FORKS = 100 };
#else
enum { FORKS = 1000 };
#endif
enum { THREADS = SOME_THREADS(2), TOKENS = 1500 };

/* A session of 1,500 tokens. */
static session *open_parent(void) {
    char *path = pocket_path();
    session *s = session_open(path, "cpu", THREADS);
    free(path);
    session_greedy(s, 2048, 24);
    int32_t *tokens = malloc(TOKENS * sizeof *tokens);
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = 300 + i % 200;
    }
    session_eval(s, tokens, TOKENS, false);
    free(tokens);
    return s;
}

static uint64_t hash_memory(sp_actor *actor) {
    uint64_t size;
    const void *bytes = sp_actor_memory(actor, &size);
    return XXH3_64bits(bytes, size);
}

static void tell(session *s, sp_actor *fork, const char *text) {
    sp_actor *kept = s->actor;
    s->actor = fork;
    session_say(s, SP_LLM_USER, text);
    s->actor = kept;
}

static void test_thousand(void **state) {
    (void)state;
    static sp_actor *forks[FORKS];
    static const char *const places[] = {"attic", "garden", "kitchen", "cellar", "tower"};
    static const char *const things[] = {"red key", "blue lamp", "green book", "silver ring", "black hat", "golden coin", "brown drum"};
    session *s = open_parent();
    sp_error err = {0};
    sp_actor *first;
    ok(sp_actor_fork(s->actor, NULL, &first, &err), &err);
    uint64_t parents = hash_memory(s->actor);
    uint64_t before = sp_os_proportional_bytes();
    double start = now_ms();
    for (int i = 0; i < FORKS; i++) {
        ok(sp_actor_fork(s->actor, NULL, &forks[i], &err), &err);
    }
    double each_ms = (now_ms() - start) / FORKS;
    uint64_t each_bytes = (sp_os_proportional_bytes() - before) / FORKS;
    print_message("%d forks of a session of %d tokens: %.1f KiB of memory (PSS) and %.3f ms each\n", FORKS, TOKENS, (double)each_bytes / 1024,
                  each_ms);
    assert_true(each_bytes <= 200 * 1024);
    int asked = times("ASKED", 12);
    char text[128];
    for (int i = 0; i < asked; i++) {
        snprintf(text, sizeof text, "The %s is in the %s.", things[i % 7], places[i / 7 % 5]);
        tell(s, forks[i], text);
    }
    for (int i = 0; i < asked; i++) {
        snprintf(text, sizeof text, "Where is the %s?", things[i % 7]);
        tell(s, forks[i], text);
        snprintf(text, sizeof text, "%s", places[i / 7 % 5]);
        if (!strstr(s->text, text)) {
            fail_msg("fork %d was told %s and says: %s", i, text, s->text);
        }
    }
    assert_true(hash_memory(s->actor) == parents); /* which knows none of it */
    for (int i = 0; i < FORKS; i++) {
        sp_actor_close(forks[i]);
    }
    sp_actor_close(first);
    session_close(s);
}

/* Forks of forks; a fork outlives its parent; what a fork is asked for can be frozen, in the session of its parent, too. */
static void test_generations(void **state) {
    (void)state;
    char *path = pocket_path();
    session *s = session_open(path, "cpu", THREADS);
    free(path);
    session_greedy(s, 512, 24);
    session_say(s, SP_LLM_USER, "My name is Ada.");
    sp_session *file = create_session(s, "family.session");
    uint64_t root = freeze(s, file);
    sp_error err = {0};
    sp_actor *child, *grandchild;
    ok(sp_actor_fork(s->actor, NULL, &child, &err), &err);
    replace_actor(s, child);
    session_say(s, SP_LLM_USER, "The code is 4711.");
    ok(sp_actor_fork(s->actor, NULL, &grandchild, &err), &err);
    replace_actor(s, grandchild);
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    uint64_t leaf = freeze(s, file);
    assert_int_equal(sp_session_get(file, leaf)->parent, root);
    thaw(s, file, root);
    session_say(s, SP_LLM_USER, "What is my name?");
    assert_non_null(strstr(s->text, "Ada"));
    thaw(s, file, leaf);
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    ok(sp_session_verify(file, &err), &err);
    sp_session_close(file);
    session_close(s);
    empty_folder();
}

/* What a program wrote on a device of its own is part of what is forked. */
static void test_discrete(void **state) {
    (void)state;
    char *path = pocket_path();
    session *s = session_open(path, "discrete", THREADS);
    free(path);
    session_greedy(s, 512, 24);
    session_say(s, SP_LLM_USER, "The code is 4711.");
    sp_error err = {0};
    sp_actor *child;
    ok(sp_actor_fork(s->actor, NULL, &child, &err), &err);
    tell(s, child, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    sp_actor_close(child);
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    session_close(s);
}

/* Bytes of all regions in which the device is ahead of the guest's pages. */
static uint64_t bytes_ahead(const sp_actor *actor) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < actor->limits.regions; i++) {
        for (uint32_t k = 0; k < actor->regions[i].n_ahead; k++) {
            bytes += actor->regions[i].ahead[k].to - actor->regions[i].ahead[k].from;
        }
    }
    return bytes;
}

static uint64_t device_used(const session *s) {
    sp_device_info info;
    sp_device_describe(s->device, &info);
    return info.memory_total - info.memory_free;
}

/* On a CUDA device forks share the cache until they write, what a turn wrote is all that a freeze brings back, and nobody sees what others say. */
static void test_cuda(void **state) {
    (void)state;
    enum { MANY = 10 };
    char *path = pocket_path();
    const char *device = getenv("SAMEPAGE_TEST_DEVICE");
    session *s = session_open(path, device ? device : "cuda-emulated", THREADS);
    free(path);
    session_greedy(s, 4096, 24);
    session_say(s, SP_LLM_USER, "The code is 4711.");
    sp_session *file = create_session(s, "cuda.session");
    freeze(s, file);
    assert_int_equal(bytes_ahead(s->actor), 0);
    sp_error err = {0};
    sp_actor *forks[MANY];
    uint64_t before = device_used(s), state_bytes = 0;
    for (uint32_t i = 0; i < s->actor->limits.regions; i++) {
        state_bytes += s->actor->regions[i].length;
    }
    for (int i = 0; i < MANY; i++) {
        ok(sp_actor_fork(s->actor, NULL, &forks[i], &err), &err);
    }
    uint64_t each = (device_used(s) - before) / MANY;
    tell(s, forks[0], "The code is 1234.");
    uint64_t ahead = bytes_ahead(forks[0]), written = device_used(s) - before - each * MANY;
    tell(s, forks[1], "The code is 5678."); /* at the positions where the other was told */
    tell(s, forks[0], "What is the code?");
    assert_non_null(strstr(s->text, "1234"));
    tell(s, forks[1], "What is the code?");
    assert_non_null(strstr(s->text, "5678"));
    print_message(
        "of regions of %llu bytes, a fork takes %llu of the device's memory, and %llu more when it has spoken; %llu come back at a freeze\n",
        (unsigned long long)state_bytes, (unsigned long long)each, (unsigned long long)written, (unsigned long long)ahead);
    assert_true(ahead < state_bytes / 8);
    if (!device) { /* a card's pieces are larger than this cache */
        assert_true(each < state_bytes / 8);
        assert_true(written < state_bytes);
    }
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    freeze(s, file);
    for (int i = 0; i < MANY; i++) {
        sp_actor_close(forks[i]);
    }
    thaw(s, file, 0);
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    sp_session_close(file);
    session_close(s);
    empty_folder();
}

/* Pages of the memory that are in this process's page table, and how many of the commit there are to read. */
static uint64_t present_pages(sp_actor *actor) {
    uint64_t size, present = 0, entry;
    const uint8_t *base = sp_actor_memory(actor, &size);
    int fd = open("/proc/self/pagemap", O_RDONLY);
    for (uint64_t at = 0; at < size; at += 4096) {
        assert_int_equal(pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)(base + at) / 4096 * sizeof entry)), sizeof entry);
        present += entry >> 63;
    }
    close(fd);
    return present;
}

static void test_pages_read(void **state) {
    (void)state;
    session *s = open_parent();
    sp_session *file = create_session(s, "long.session");
    freeze(s, file);
    uint64_t all = sp_session_get(file, 0)->file_bytes / 4096;
    thaw(s, file, 0);
    uint64_t thawed = present_pages(s->actor);
    ask(s, SP_LLM_USER, "Hello.");
    answer(s, 1, NULL);
    print_message("of %llu pages, %llu were touched by the thaw and %llu by the first token (the system maps up to 16 at a touch)\n",
                  (unsigned long long)all, (unsigned long long)thawed, (unsigned long long)present_pages(s->actor));
    if (sp_os_page_size() == SP_LOG_PAGE) {
        assert_true(thawed <= 32); /* sp_resumed and the stack */
    }
    sp_session_close(file);
    session_close(s);
    empty_folder();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pages_read), cmocka_unit_test(test_thousand), cmocka_unit_test(test_generations),
                                       cmocka_unit_test(test_discrete), cmocka_unit_test(test_cuda)};
    cmocka_set_test_filter(getenv("SAMEPAGE_TEST_FILTER"));
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
