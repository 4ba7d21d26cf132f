/*
 * LoRA adapters of a tiny model: an input that begins with GGUF is an adapter's file; any other is a list of edits of a good one (edits.h). The first
 * byte says whether the model comes with one adapter or with the good one and the damaged one, and whether the graph with them is asked for.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "adapter.h"
#include "edits.h"
#include "fuzz.h"

static header model, adapter;
static char good_path[64];

static void remove_adapter(void) {
    unlink(good_path);
}

static void start(void) {
    if (good_path[0]) {
        return;
    }
    const adapter_settings settings = {.rank = 2, .alpha = 4, .size = 0.2f, .seed = 1};
    header_of(&model, tiny_model());
    snprintf(good_path, sizeof good_path, "/tmp/samepage-fuzz-%ld-adapter.gguf", (long)getpid());
    atexit(remove_adapter);
    CHECK(write_adapter(tiny_model(), good_path, &settings));
    header_of(&adapter, good_path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    start();
    if (size == 0) {
        return 0;
    }
    const bool whole = size >= 4 && memcmp(data, "GGUF", 4) == 0;
    const size_t length = whole ? size : header_damage(&adapter, data, size);
    const int fd = memfd_create("adapter", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, whole ? data : adapter.damaged, length) == (ssize_t)length);
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", fd);
    const bool two = !whole && data[0] % 8 == 1;
    const sp_adapter adapters[] = {{path, 0.5f}, {good_path, 1}};
    const sp_model_options options = {.adapters = adapters, .n_adapters = two ? 2 : 1};
    sp_model *opened = NULL;
    sp_error err = {0};
    const sp_status status = sp_model_open_bytes_cached(NULL, model.whole, model.size, &options, &opened, &err);
    CHECK((status == SP_OK) == (opened != NULL) && (status == SP_OK || (err.message[0] && !strchr(err.message, '\n'))));
    if (opened) {
        if (whole || data[0] % 4 == 0 || two) {
            trace_model(opened);
        }
        sp_model_close(opened);
    }
    close(fd);
    return 0;
}
