/* Converted weights as a file: the next start maps it and converts nothing; whatever is wrong with the file, the logits are those of a first start.
 */
#define TEST_THREADS 1
#include "model_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { N_TOKENS = 12, N_VOCAB_MOST = 1 << 17, AT_ONCE = 4, KILLS = 12 };

typedef struct outcome {
    int converted; /* weights */
    char notice[600];
    float logits[N_VOCAB_MOST];
} outcome;

static char folder[512], model_path[512];
static outcome first;

static void on_progress(void *user, const char *what, double fraction) {
    (void)fraction;
    ((outcome *)user)->converted += strcmp(what, "converting weights") == 0;
}

static void on_notice(void *user, const char *line) {
    snprintf(((outcome *)user)->notice, sizeof first.notice, "%s", line);
}

/* Opens the model as a new process would, and evaluates a few tokens. */
static void start(const char *path, uint64_t limit, outcome *out) {
    *out = (outcome){0};
    const sp_model_options options = {
        .progress = on_progress, .progress_user = out, .kept_weights_bytes = limit, .notice = on_notice, .notice_user = out};
    sp_model *model = NULL;
    sp_error err = {0};
    must(sp_model_open_cached(folder, path, &options, &model, &err), &err);
    runner r = open_runner(model, "cpu", 256);
    int32_t tokens[N_TOKENS];
    for (int32_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = 3 + 5 * i;
    }
    const float *logits = runner_decode(&r, tokens, N_TOKENS, 0, 1);
    assert_true(r.n_vocab <= N_VOCAB_MOST);
    memcpy(out->logits, logits, r.n_vocab * sizeof *logits);
    close_runner(&r);
    sp_model_close(model);
}

/* The files in the folder whose names end so, and the path of one of them. */
static int find_files(const char *end, char path[1100]) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (struct dirent *it = readdir(dir); it; it = readdir(dir)) {
        const size_t length = strlen(it->d_name);
        if (length > strlen(end) && strcmp(it->d_name + length - strlen(end), end) == 0) {
            snprintf(path, 1100, "%s/%s", folder, it->d_name);
            n++;
        }
    }
    closedir(dir);
    return n;
}

static void remove_files(void) {
    char path[1100];
    while (find_files("", path) > 2) { /* . and .. */
        DIR *dir = opendir(folder);
        for (struct dirent *it = readdir(dir); it; it = readdir(dir)) {
            snprintf(path, sizeof path, "%s/%s", folder, it->d_name);
            unlink(path);
        }
        closedir(dir);
    }
}

static off_t size_of(const char *path) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_size;
}

static outcome now;

static void expect(int converted, const char *notice) {
    assert_int_equal(now.converted, converted);
    assert_true(notice ? strstr(now.notice, notice) != NULL : !now.notice[0]);
    assert_memory_equal(now.logits, first.logits, sizeof now.logits);
}

static int prepare(void **state) {
    char path[1100];
    (void)state;
    scratch_path(folder, "kept");
    assert_int_equal(mkdir(folder, 0700), 0);
    write_tiny(model_path, "llama", SP_TYPE_Q4_0);
    start(model_path, 0, &first);
    assert_string_equal(first.notice, "");
    if (find_files(".weights", path) == 0) {
        print_message("skipped: ggml has no faster layout on this machine\n");
        exit(0);
    }
    return 0;
}

static int clean(void **state) {
    (void)state;
    remove_files();
    rmdir(folder);
    return unlink(model_path);
}

static void test_next_start_converts_nothing(void **state) {
    (void)state;
    assert_true(first.converted > 10);
    start(model_path, 0, &now);
    expect(0, NULL);
    oracle o = open_oracle(model_path, 256);
    int32_t tokens[N_TOKENS];
    for (int32_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = 3 + 5 * i;
    }
    const float *logits = oracle_decode(&o, tokens, N_TOKENS, 0, 1);
    assert_memory_equal(logits, now.logits, (size_t)llama_vocab_n_tokens(llama_model_get_vocab(o.model)) * sizeof *logits);
    close_oracle(&o);
}

static void damage(const char *path, off_t at) {
    uint8_t byte;
    const int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* A bit anywhere: the weight that it is in, or all where it is in the table, is converted anew, and the file is whole again. */
static void test_damaged(void **state) {
    (void)state;
    char path[1100];
    assert_int_equal(find_files(".weights", path), 1);
    const off_t size = size_of(path), places[] = {3, 9, 20, 30, 50, 60, 70, 100, 4096, size / 2 / 4096 * 4096 + 7, size - 1};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        damage(path, places[i]);
        start(model_path, 0, &now);
        assert_in_range(now.converted, 1, places[i] < 4096 ? first.converted : 1);
        expect(now.converted, NULL);
        start(model_path, 0, &now);
        expect(0, NULL);
        assert_int_equal(size_of(path), size);
    }
}

static void test_truncated(void **state) {
    (void)state;
    char path[1100];
    assert_int_equal(find_files(".weights", path), 1);
    const off_t size = size_of(path), lengths[] = {0, 1, 70, 4095, 4096, size / 2, size - 1, size + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        assert_int_equal(truncate(path, lengths[i]), 0);
        start(model_path, 0, &now);
        expect(first.converted, NULL);
        start(model_path, 0, &now);
        expect(0, NULL);
    }
}

/* Other weights under the same name, of the same size, with the same header: only the time of writing tells. */
static void test_model_is_written_anew(void **state) {
    (void)state;
    sp_model *model = open_model(model_path);
    const sp_weight_table *table = sp_model_weight_table(model);
    const uint64_t at = table->entries[table->n - 1].offset + 8;
    char fingerprint[33];
    snprintf(fingerprint, sizeof fingerprint, "%s", sp_model_fingerprint(model));
    sp_model_close(model);
    for (uint64_t i = 0; i < 64; i++) {
        damage(model_path, (off_t)(at + 18 * i));
    }
    start(model_path, 0, &now);
    assert_int_equal(now.converted, first.converted);
    assert_memory_not_equal(now.logits, first.logits, sizeof now.logits);
    model = open_model(model_path);
    assert_string_equal(sp_model_fingerprint(model), fingerprint);
    sp_model_close(model);
    for (uint64_t i = 0; i < 64; i++) {
        damage(model_path, (off_t)(at + 18 * i));
    }
    remove_files();
    start(model_path, 0, &now);
    expect(first.converted, NULL);
}

static void test_limit(void **state) {
    (void)state;
    char path[1100], other[512];
    assert_int_equal(find_files(".weights", path), 1);
    const uint64_t size = (uint64_t)size_of(path);
    write_tiny(other, "qwen2", SP_TYPE_Q4_0);
    outcome *elsewhere = calloc(1, sizeof *elsewhere);
    start(other, size * 3 / 2, elsewhere); /* the first model's gives way */
    assert_string_equal(elsewhere->notice, "");
    assert_int_equal(find_files(".weights", path), 1);
    start(model_path, size - 1, &now);
    expect(first.converted, "the limit is");
    start(model_path, size * 4, &now);
    expect(first.converted, NULL);
    assert_int_equal(find_files(".weights", path), 2);
    start(other, size * 4, elsewhere);
    assert_int_equal(elsewhere->converted, 0);
    free(elsewhere);
    unlink(other);
}

static void test_full_disk(void **state) {
    (void)state;
    char path[1100];
    struct rlimit before, little;
    remove_files();
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little = before;
    little.rlim_cur = 50000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    start(model_path, 0, &now);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    expect(first.converted, "not kept for the next start");
    assert_int_equal(find_files(".weights", path) + find_files(".tmp", path), 0);
    start(model_path, 0, &now);
    expect(first.converted, NULL);
}

static int differ(void) {
    int n = 0;
    for (int i = 0; i < N_VOCAB_MOST; i++) {
        n += now.logits[i] != first.logits[i];
    }
    return n;
}

static pid_t start_process(void) {
    const pid_t child = fork();
    if (child == 0) {
        start(model_path, 0, &now);
        _exit(differ() ? 1 : 0);
    }
    return child;
}

static void test_several_at_once(void **state) {
    (void)state;
    char path[1100];
    for (int round = 0; round < 3; round++) {
        pid_t children[AT_ONCE];
        remove_files();
        for (int i = 0; i < AT_ONCE; i++) {
            children[i] = start_process();
        }
        for (int i = 0; i < AT_ONCE; i++) {
            int status;
            assert_int_equal(waitpid(children[i], &status, 0), children[i]);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
        assert_int_equal(find_files(".weights", path), 1);
        assert_int_equal(find_files(".tmp", path), 0);
        start(model_path, 0, &now);
        expect(0, NULL);
    }
}

/* Whenever a process is killed, the next one starts, and what it leaves is whole. */
static void test_killed(void **state) {
    (void)state;
    char path[1100];
    for (int i = 0; i < KILLS; i++) {
        remove_files();
        const pid_t child = start_process();
        usleep((unsigned)(i * 8000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        start(model_path, 0, &now);
        expect(now.converted, NULL);
        assert_int_equal(find_files(".tmp", path), 0);
        start(model_path, 0, &now);
        expect(0, NULL);
    }
}

int main(void) {
    llama_log_set(NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_start_converts_nothing),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_model_is_written_anew),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_several_at_once),
        cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, prepare, clean);
}
