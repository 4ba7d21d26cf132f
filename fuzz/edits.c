#include "edits.h"

#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "model/synthetic.h"
#include "samepage/program.h"

int edit_get(const uint8_t *data, size_t size, size_t skip, size_t i, edit *out) {
    if (size < skip || size - skip < 8 * (i + 1)) {
        return 0;
    }
    const uint8_t *at = data + skip + 8 * i;
    out->place = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;
    out->kind = at[3];
    memcpy(&out->value, at + 4, sizeof out->value);
    return 1;
}

uint64_t edit_value(uint32_t value) {
    if (value >= 192) {
        return value;
    }
    const uint64_t power = UINT64_C(1) << value / 3;
    return value % 3 == 0 ? power - 1 : value % 3 == 1 ? power : ~power + 1;
}

static char path[64];

static void remove_model(void) {
    unlink(path);
}

const char *tiny_model(void) {
    if (path[0]) {
        return path;
    }
    const sp_synthetic what = {.architecture = "llama",
                               .n_vocab = 300,
                               .n_layer = 1,
                               .n_embd = 64,
                               .n_head = 2,
                               .n_head_kv = 1,
                               .n_ff = 64,
                               .n_ctx = 256,
                               .type = SP_TYPE_Q8_0,
                               .seed = 1};
    sp_error err;
    snprintf(path, sizeof path, "/tmp/samepage-fuzz-%ld.gguf", (long)getpid());
    atexit(remove_model);
    if (sp_synthetic_write(&what, path, &err) != SP_OK) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    return path;
}

uint8_t *read_file(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    uint8_t *bytes = NULL;
    long length = -1;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        length = ftell(file);
        rewind(file);
    }
    if (length > 0) {
        bytes = malloc((size_t)length);
    }
    if (!bytes || fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        fprintf(stderr, "can't read %s\n", name);
        abort();
    }
    fclose(file);
    *size = (size_t)length;
    return bytes;
}
