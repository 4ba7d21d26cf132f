#include "edits.h"

#include <gguf.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "model/synthetic.h"
#include "program/program.h"
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

void header_of(header *h, const char *name) {
    if (h->whole) {
        return;
    }
    h->whole = read_file(name, &h->size);
    h->damaged = malloc(h->size);
    struct gguf_context *gguf = gguf_init_from_file(name, (struct gguf_init_params){.no_alloc = true});
    CHECK(h->damaged && gguf);
    h->header_size = gguf_get_data_offset(gguf);
    gguf_free(gguf);
}

size_t header_damage(header *h, const uint8_t *data, size_t size) {
    edit e;
    size_t length = h->size;
    memcpy(h->damaged, h->whole, h->size);
    for (size_t i = 0; edit_get(data, size, 1, i, &e); i++) {
        const size_t at = e.place % (h->header_size - 8);
        const uint64_t value = edit_value(e.value);
        if (e.kind % 8 == 7) {
            length = at < length ? (e.kind & 8 ? h->size - at : at) : length;
        } else {
            memcpy(h->damaged + at, &value, (size_t)1 << e.kind % 4);
        }
    }
    return length;
}

void trace_model(sp_model *model) {
    const void *bytes;
    uint64_t size;
    sp_error err;
    if (sp_model_get_program(model, &(sp_program_wish){.type_k = SP_TYPE_F16, .type_v = SP_TYPE_F16}, &bytes, &size, &err) == SP_OK) {
        sp_program *program;
        const sp_weight_source weights = {.find = sp_model_find_weight, .context = model};
        CHECK(sp_program_load(bytes, size, &weights, &program, &err) == SP_OK);
        sp_program_free(program);
    }
}
