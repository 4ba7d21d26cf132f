/*
 * An actor is a file: what is thawed goes on as if it had never stopped, to the byte, in another process and on another device.
 *     CONTINUATIONS=200   greedy ones, and as many seeded ones (the suite: 8)
 *     DIALOGUES=50        moved from device to device (the suite: 3, and 1 with Vulkan)
 *     SAMEPAGE_TEST_DEVICE=cuda:0   a card in place of the emulated one
 *     test_freeze NAME    this test alone (test_new_process, test_discrete, test_vulkan, test_cuda, ...)
 */
#include "actor_test.h"
#include "threads.h"

enum { THREADS = SOME_THREADS(2), CONTEXT = 512, LENGTH = 32 };

/* ---- in a new process ---- */

typedef struct plan {
    int32_t tokens[LENGTH];
    uint64_t hashes[LENGTH];
    int stop; /* tokens that it had when it was frozen */
    bool seeded;
} plan;

static void prompt(int i, char *out, size_t size) {
    static const char *const things[] = {"red key", "blue lamp", "green book", "old map", "silver ring"};
    snprintf(out, size, "Tell me a story about a %s and %d friends.", things[i % 5], i / 5 + 2);
}

/* Until token `stop` of answer i. */
static void begin(session *s, int i, bool seeded, int stop, uint64_t *hashes) {
    char text[128];
    respawn(s);
    configure(s, CONTEXT, LENGTH, seeded, (uint64_t)i);
    prompt(i, text, sizeof text);
    ask(s, SP_LLM_USER, text);
    answer(s, stop, hashes);
}

static void write_all(const plan *plans, int n) {
    FILE *file = fopen(in_store("plans"), "wb");
    assert_int_equal(fwrite(plans, sizeof *plans, (size_t)n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* The other process: every file is thawed and goes on to its end. 0: all as they would have. */
static int go_on(const char *store, int n) {
    snprintf(folder, sizeof folder, "%s", store);
    char *path = pocket_path(), name[32];
    session *s = session_open(path, "cpu", THREADS);
    free(path);
    plan *plans = calloc((size_t)n, sizeof *plans);
    FILE *file = fopen(in_store("plans"), "rb");
    int wrong = !file || fread(plans, sizeof *plans, (size_t)n, file) != (size_t)n;
    for (int i = 0; !wrong && i < n; i++) {
        snprintf(name, sizeof name, "%d.session", i);
        sp_session *frozen = open_session(name);
        uint64_t hashes[LENGTH] = {0};
        const plan *p = &plans[i];
        thaw(s, frozen, 0);
        sp_session_close(frozen);
        wrong += hash_logits(s->actor) != p->hashes[p->stop - 1];
        s->n_tokens = 0;
        s->finished = false;
        answer(s, -1, hashes);
        wrong += (int)s->n_tokens != LENGTH - p->stop;
        for (int t = p->stop; t < LENGTH; t++) {
            /* After the last token nothing is submitted: the logits are those that it was drawn from. */
            wrong += s->tokens[t - p->stop] != p->tokens[t] || (t < LENGTH - 1 && hashes[t - p->stop] != p->hashes[t]);
        }
        if (wrong) {
            fprintf(stderr, "continuation %d, from token %d, is another one\n", i, p->stop);
        }
    }
    if (file) {
        fclose(file);
    }
    free(plans);
    session_close(s);
    return wrong != 0;
}

static void test_new_process(void **state) {
    (void)state;
    int each = times("CONTINUATIONS", 8), n = 2 * each;
    char *path = pocket_path(), name[32], count[16];
    session *s = session_open(path, "cpu", THREADS);
    free(path);
    plan *plans = calloc((size_t)n, sizeof *plans);
    srand(4);
    for (int i = 0; i < n; i++) {
        plan *p = &plans[i];
        p->seeded = i % 2;
        p->stop = 1 + rand() % (LENGTH - 2);
        begin(s, i, p->seeded, -1, p->hashes); /* never stopped, never frozen */
        assert_int_equal(s->n_tokens, LENGTH);
        memcpy(p->tokens, s->tokens, sizeof p->tokens);
        begin(s, i, p->seeded, p->stop, NULL);
        snprintf(name, sizeof name, "%d.session", i);
        sp_session *file = create_session(s, name);
        freeze(s, file);
        sp_session_close(file);
    }
    write_all(plans, n);
    free(plans);
    session_close(s);
    snprintf(count, sizeof count, "%d", n);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "test_freeze", "--go-on", folder, count, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    print_message("%d greedy and %d seeded continuations in a new process: logits equal as bytes\n", each, each);
    empty_folder();
}

/* ---- from device to device ---- */

static bool there_is(const char *device) {
    sp_device *opened;
    sp_error err;
    bool there = sp_device_open(device, THREADS, &opened, &err) == SP_OK;
    if (there) {
        sp_device_close(opened);
    }
    return there;
}

/* One turn on a device, in a process of its own: lavapipe, the Vulkan device of tests, corrupts its heap with a second actor in one process. */
static int one_turn(const char *store, const char *name, const char *device, const char *question) {
    snprintf(folder, sizeof folder, "%s", store);
    char *path = pocket_path();
    session *s = session_open(path, device, THREADS);
    free(path);
    sp_session *file = open_session(name);
    sp_actor_close(s->actor);
    s->actor = NULL;
    thaw(s, file, 0);
    session_say(s, SP_LLM_USER, question);
    freeze(s, file);
    sp_session_close(file);
    FILE *said = fopen(in_store("said"), "wb");
    fwrite(s->text, 1, strlen(s->text), said);
    fclose(said);
    session_close(s);
    return 0;
}

static void turn_elsewhere(const char *name, const char *device, const char *question, char *out, size_t size) {
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "test_freeze", "--turn", folder, name, device, question, (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    FILE *said = fopen(in_store("said"), "rb");
    out[fread(out, 1, size - 1, said)] = 0;
    fclose(said);
}

/*
 * Dialogue i, of which every second turn is spoken on the device (NULL: none); every turn begins with a thaw and ends with a freeze. What is asked
 * for on one device was told on the other. The model is sure of these answers: where it isn't, devices that round differently part at the first near
 * tie.
 */
static void dialogue(session *s, const char *device, int i, char out[4096]) {
    static const char *const things[] = {"red key", "blue lamp", "green book", "silver ring", "black hat", "golden coin", "brown drum"};
    static const char *const places[] = {"attic", "garden", "kitchen", "cellar", "tower"}, *const names[] = {"Ada", "Omar", "Lena", "Jack"};
    char text[4][64];
    snprintf(text[0], sizeof text[0], "The %s is in the %s.", things[i % 7], places[i / 7 % 5]);
    snprintf(text[1], sizeof text[1], "Where is the %s?", things[i % 7]);
    snprintf(text[2], sizeof text[2], "My name is %s.", names[i % 4]);
    snprintf(text[3], sizeof text[3], "What is my name?");
    sp_session *file = create_session(s, "dialogue.session");
    out[0] = 0;
    for (int turn = 0; turn < 4; turn++) {
        size_t length = strlen(out);
        if (turn % 2 && device) {
            sp_session_close(file);
            turn_elsewhere("dialogue.session", device, text[turn], out + length, 4096 - length);
            file = open_session("dialogue.session");
            continue;
        }
        if (turn) {
            thaw(s, file, 0);
        } else {
            respawn(s);
            session_greedy(s, CONTEXT, 32);
        }
        session_say(s, SP_LLM_USER, text[turn]);
        freeze(s, file);
        snprintf(out + length, 4096 - length, "%.900s", s->text);
    }
    sp_session_close(file);
    sp_session_remove(in_store("dialogue.session"), NULL);
}

static void travels(const char *device, int n) {
    if (!there_is(device)) {
        print_message("skipped: there is no device %s\n", device);
        skip();
    }
    char *path = pocket_path(), stayed[4096], moved[4096];
    session *s = session_open(path, "cpu", THREADS);
    free(path);
    for (int i = 0; i < n; i++) {
        dialogue(s, NULL, i, stayed);
        dialogue(s, device, i, moved);
        assert_string_equal(stayed, moved);
    }
    print_message("%d dialogues, frozen and thawed at each turn, alternate between cpu and %s: the same text\n", n, device);
    session_close(s);
    empty_folder();
}

static void test_discrete(void **state) {
    (void)state;
    travels("discrete", times("DIALOGUES", 3));
}

static const char *cuda_device(void) {
    const char *device = getenv("SAMEPAGE_TEST_DEVICE");
    return device ? device : "cuda-emulated";
}

static void test_cuda(void **state) {
    (void)state;
    travels(cuda_device(), times("DIALOGUES", 1));
}

static void test_vulkan(void **state) {
    (void)state;
    travels("vulkan:0", times("DIALOGUES", 1));
}

/* In the middle of an answer the logits are still on the device. */
static void in_the_middle(const char *device) {
    char *path = pocket_path();
    session *s = session_open(path, device, THREADS);
    free(path);
    begin(s, 3, true, -1, NULL);
    int32_t whole[LENGTH];
    memcpy(whole, s->tokens, sizeof whole);
    begin(s, 3, true, 10, NULL);
    sp_session *file = create_session(s, "middle.session");
    freeze(s, file);
    answer(s, 16, NULL); /* it goes on after a freeze, too */
    freeze(s, file);
    answer(s, -1, NULL);
    assert_memory_equal(s->tokens, whole, sizeof whole);
    thaw(s, file, 1);
    s->n_tokens = 0;
    s->finished = false;
    answer(s, -1, NULL);
    assert_int_equal(s->n_tokens, LENGTH - 10);
    assert_memory_equal(s->tokens, whole + 10, sizeof whole - sizeof *whole * 10);
    sp_session_close(file);
    session_close(s);
    empty_folder();
}

static void test_discrete_in_the_middle(void **state) {
    (void)state;
    in_the_middle("discrete");
}

static void test_cuda_in_the_middle(void **state) {
    (void)state;
    in_the_middle(cuda_device());
}

/* ---- undo and branches ---- */

static void test_branches(void **state) {
    (void)state;
    char *path = pocket_path();
    session *s = session_open(path, "cpu", THREADS);
    free(path);
    session_greedy(s, CONTEXT, 32);
    sp_session *file = create_session(s, "tree.session");
    session_say(s, SP_LLM_USER, "My name is Ada.");
    uint64_t first = freeze(s, file);
    session_say(s, SP_LLM_USER, "The code is 4711.");
    uint64_t second = freeze(s, file);
    assert_int_equal(sp_session_get(file, second)->parent, first);
    assert_int_equal(sp_session_set_head(file, first, NULL), SP_OK);
    assert_int_equal(sp_session_set_name(file, second, "with the code", NULL), SP_OK);
    sp_session_close(file);
    file = open_session("tree.session");
    assert_int_equal(sp_session_get(file, 0)->number, first);
    thaw(s, file, 0);
    session_say(s, SP_LLM_USER, "The code is 1234.");
    uint64_t branch = freeze(s, file);
    assert_int_equal(sp_session_get(file, branch)->parent, first);
    assert_true(sp_session_get(file, branch)->file_bytes < sp_session_get(file, first)->file_bytes);
    thaw(s, file, sp_session_find(file, "with the code")->number);
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "4711"));
    thaw(s, file, branch);
    session_say(s, SP_LLM_USER, "What is the code?");
    assert_non_null(strstr(s->text, "1234"));
    thaw(s, file, branch);
    sp_error err = {0};
    ok(sp_session_verify(file, &err), &err);
    ok(sp_session_compact(file, &err), &err); /* under the actor, which still maps the old file */
    assert_int_equal(sp_session_count(file), 2);
    session_say(s, SP_LLM_USER, "What is my name?");
    assert_non_null(strstr(s->text, "Ada"));
    uint64_t last = freeze(s, file);
    assert_int_equal(sp_session_get(file, last)->parent, 2);
    ok(sp_session_verify(file, &err), &err);
    sp_session_close(file);
    session_close(s);
    empty_folder();
}

/* ---- another model ---- */

/* What was expected and what was found is said, and neither the session nor the actor is worse for it. */
static void test_other_model(void **state) {
    (void)state;
    char *path = pocket_path(), *other_path = in_folder("SOURCE_DIR", "models/pocket/pocket-f16.gguf");
    session *s = session_open(path, "cpu", THREADS);
    sp_error err = {0};
    sp_model *other, *both[2];
    sp_actor *actor;
    sp_session *file = create_session(s, "model.session");
    session_greedy(s, CONTEXT, 32);
    freeze(s, file);
    ok(sp_model_open(s->host, other_path, NULL, &other, &err), &err);
    both[0] = s->model, both[1] = other;
    sp_actor_options options = options_of(s);
    options.models = &other;
    assert_int_equal(sp_actor_thaw(s->host, s->module, &options, file, 0, &actor, &err), SP_ERR_ARGUMENT);
    assert_null(actor);
    assert_non_null(strstr(err.message, sp_model_fingerprint(s->model)));
    assert_non_null(strstr(err.message, sp_model_fingerprint(other)));
    options.models = both, options.n_models = 2;
    assert_int_equal(sp_actor_thaw(s->host, s->module, &options, file, 0, &actor, &err), SP_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "expects 1 models and found 2"));
    options.models = &other, options.n_models = 1;
    assert_int_equal(sp_actor_fork(s->actor, &options, &actor, &err), SP_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, sp_model_fingerprint(other)));
    ok(sp_actor_spawn(s->host, s->module, &options, &actor, &err), &err);
    assert_int_equal(sp_actor_freeze(actor, file, NULL, NULL, &err), SP_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, sp_model_fingerprint(other)));
    sp_actor_close(actor);
    assert_int_equal(sp_session_count(file), 1);
    thaw(s, file, 0);
    sp_session_close(file);
    sp_actor_close(s->actor);
    s->actor = NULL;
    sp_model_close(other);
    session_close(s);
    free(path);
    free(other_path);
    empty_folder();
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "--go-on") == 0) {
        return go_on(argv[2], atoi(argv[3]));
    }
    if (argc == 6 && strcmp(argv[1], "--turn") == 0) {
        return one_turn(argv[2], argv[3], argv[4], argv[5]);
    }
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_new_process), cmocka_unit_test(test_discrete),
                                       cmocka_unit_test(test_vulkan),      cmocka_unit_test(test_discrete_in_the_middle),
                                       cmocka_unit_test(test_cuda),        cmocka_unit_test(test_cuda_in_the_middle),
                                       cmocka_unit_test(test_branches),    cmocka_unit_test(test_other_model)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
