/*
 * Writes models with random weights: tiny ones of each architecture and type into a folder, or the Llama of 1.24 billion parameters that benchmarks
 * use.
 *
 *   make-models tiny FOLDER VOCABULARY.gguf     llama, qwen2, qwen3, phi3 in f16, q8_0, q4_0, with that file's vocabulary
 *   make-models llama-1b TYPE FILE              TYPE: f16, q8_0 or q4_0
 */
#include <stdio.h>
#include <string.h>

#include "model/synthetic.h"
#include "samepage/program.h"

static const struct {
    const char *name;
    uint32_t type;
} types[] = {{"f16", SP_TYPE_F16}, {"q8_0", SP_TYPE_Q8_0}, {"q4_0", SP_TYPE_Q4_0}};
enum { N_TYPES = sizeof types / sizeof types[0] };

static int report(sp_status status, const char *path, const sp_error *err) {
    if (status != SP_OK) {
        fprintf(stderr, "make-models: %s\n", err->message);
        return 1;
    }
    printf("%s\n", path);
    return 0;
}

static int write_tiny(const char *folder, const char *vocabulary) {
    static const char *const architectures[] = {"llama", "qwen2", "qwen3", "phi3"};
    int failed = 0;
    for (size_t a = 0; a < sizeof architectures / sizeof architectures[0]; a++) {
        for (size_t t = 0; t < N_TYPES; t++) {
            sp_synthetic what = {.architecture = architectures[a],
                                 .vocabulary = vocabulary,
                                 .n_layer = 2,
                                 .n_embd = 128,
                                 .n_head = 4,
                                 .n_head_kv = 2,
                                 .n_ff = 256,
                                 .n_ctx = 2048,
                                 .type = types[t].type,
                                 .seed = 1 + a};
            char path[4096];
            snprintf(path, sizeof path, "%s/%s-%s.gguf", folder, architectures[a], types[t].name);
            sp_error err;
            failed |= report(sp_synthetic_write(&what, path, &err), path, &err);
        }
    }
    return failed;
}

static int write_llama(const char *type, const char *path) {
    for (size_t t = 0; t < N_TYPES; t++) {
        if (strcmp(types[t].name, type) == 0) {
            sp_synthetic what = sp_synthetic_llama_1b(types[t].type);
            sp_error err;
            return report(sp_synthetic_write(&what, path, &err), path, &err);
        }
    }
    fprintf(stderr, "make-models: no type \"%s\": f16, q8_0 or q4_0\n", type);
    return 2;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "tiny") == 0) {
        return write_tiny(argv[2], argv[3]);
    }
    if (argc == 4 && strcmp(argv[1], "llama-1b") == 0) {
        return write_llama(argv[2], argv[3]);
    }
    fprintf(stderr, "usage: make-models tiny FOLDER VOCABULARY.gguf | make-models llama-1b f16|q8_0|q4_0 FILE\n");
    return 2;
}
