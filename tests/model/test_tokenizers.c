/* llama.cpp's own vocabularies and texts: every text gives the tokens that are written beside it, asked for by a guest. */
#include "model_test.h"

#include <dirent.h>

#include "test_data.h"

static const char separator[] = "\n__ggml_vocab_test__\n";
enum { MOST = 4096 };

typedef struct answer {
    int32_t tokens[MOST];
    size_t n;
    bool came;
} answer;

static void on_message(void *user, const void *bytes, size_t size) {
    answer *a = user;
    assert_true(size <= sizeof a->tokens);
    memcpy(a->tokens, bytes, size);
    a->n = size / sizeof *a->tokens;
    a->came = true;
}

static char *read_whole(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *bytes = malloc(1 << 20);
    *size = fread(bytes, 1, (1 << 20) - 1, file);
    bytes[*size] = 0;
    fclose(file);
    return bytes;
}

static void compare(sp_actor *actor, answer *a, const char *text, size_t length, char *line, const char *name) {
    sp_error err = {0};
    sp_step_result result;
    a->came = false;
    must(sp_actor_send(actor, text, length, &err), &err);
    must(sp_actor_run(actor, &result, &err), &err);
    assert_true(a->came);
    size_t n = 0;
    for (char *at = line, *end; *at && *at != '\n'; at = end) {
        long wanted = strtol(at, &end, 10);
        if (end == at) {
            break;
        }
        if (n >= a->n || a->tokens[n] != wanted) {
            fail_msg("%s: \"%.*s\": token %zu is %d, not %ld", name, (int)length, text, n, n < a->n ? a->tokens[n] : -1, wanted);
        }
        n++;
    }
    if (n != a->n) {
        fail_msg("%s: \"%.*s\": %zu tokens, not %zu", name, (int)length, text, a->n, n);
    }
}

/* Returns how many texts there were. */
static int compare_file(sp_host *host, sp_device *device, sp_module *module, const char *folder, const char *name) {
    char path[1024], inputs[1032], outputs[1032];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(inputs, sizeof inputs, "%s.inp", path);
    snprintf(outputs, sizeof outputs, "%s.out", path);
    if (access(inputs, R_OK) != 0) {
        return 0;
    }
    static answer a;
    sp_model *model = open_model(path);
    sp_actor_options options = {
        .device = device, .models = &model, .n_models = 1, .on_message = on_message, .on_message_user = &a, .inherit_stderr = true};
    sp_actor *actor = NULL;
    sp_error err = {0};
    must(sp_actor_spawn(host, module, &options, &actor, &err), &err);
    size_t size, lines_size;
    char *text = read_whole(inputs, &size), *lines = read_whole(outputs, &lines_size), *line = lines;
    int n = 0;
    for (char *at = text; at < text + size && line; n++) {
        char *end = memmem(at, size - (size_t)(at - text), separator, sizeof separator - 1);
        size_t length = end ? (size_t)(end - at) : size - (size_t)(at - text);
        compare(actor, &a, at, length, line, name);
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
        at = end ? end + sizeof separator - 1 : text + size;
    }
    free(text);
    free(lines);
    sp_actor_close(actor);
    sp_model_close(model);
    return n;
}

static void test_tokenizers(void **state) {
    (void)state;
    const char *data = test_data_folder();
    assert_non_null(data);
    char folder[512], wasm[512];
    snprintf(folder, sizeof folder, "%s/models", data);
    snprintf(wasm, sizeof wasm, "%s/guest/tokens.wasm", folder_of("BUILD_DIR"));
    sp_host *host = NULL;
    sp_device *device = NULL;
    sp_module *module = NULL;
    sp_error err = {0};
    size_t size;
    char *bytes = read_whole(wasm, &size);
    must(sp_host_open(NULL, &host, &err), &err);
    must(sp_device_open("cpu", 1, &device, &err), &err);
    must(sp_module_load(host, bytes, size, &module, &err), &err);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    int vocabularies = 0, texts = 0;
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        size_t length = strlen(e->d_name);
        if (length > 5 && strcmp(e->d_name + length - 5, ".gguf") == 0) {
            int n = compare_file(host, device, module, folder, e->d_name);
            vocabularies += n > 0;
            texts += n;
        }
    }
    closedir(dir);
    printf("tokenizers: %d vocabularies, %d texts, all equal\n", vocabularies, texts);
    assert_true(vocabularies >= 15);
    free(bytes);
    sp_module_close(module);
    sp_device_close(device);
    sp_host_close(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tokenizers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
