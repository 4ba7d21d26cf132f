/* Which devices there are, and opening one by its name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cuda/cuda.h"
#include "device/device_impl.h"
#include "memory/os.h"

#ifdef SP_WITH_METAL
#include <ggml-metal.h>
#endif

/* ggml's log: its errors reach people as messages of ours, so nothing is printed. */
static void log_nothing(enum ggml_log_level level, const char *text, void *user) {
    (void)level, (void)text, (void)user;
}

/* One device that can be opened. */
typedef struct candidate {
    char name[32];
    ggml_backend_dev_t dev;
    bool separate;
} candidate;

enum { MAX_CANDIDATES = 32 };

static void add(candidate *list, size_t *count, const char *name, ggml_backend_dev_t dev, bool separate) {
    if (*count < MAX_CANDIDATES) {
        snprintf(list[*count].name, sizeof list->name, "%s", name);
        list[*count].dev = dev;
        list[(*count)++].separate = separate;
    }
}

static ggml_backend_dev_t cpu_device(void) {
    return ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
}

/* Every device; starting a GPU's driver takes a while, so this is called only when one is asked for. */
static size_t find_all(candidate *list) {
    size_t count = 0;
    add(list, &count, "cpu", cpu_device(), false);
    add(list, &count, "discrete", cpu_device(), true);
#ifdef SP_WITH_VULKAN
    ggml_backend_reg_t vulkan = sp_vulkan_reg();
    for (size_t i = 0; vulkan && i < ggml_backend_reg_dev_count(vulkan); i++) {
        char name[32];
        snprintf(name, sizeof name, "vulkan:%zu", i);
        add(list, &count, name, ggml_backend_reg_dev_get(vulkan, i), false);
    }
#endif
#ifdef SP_WITH_METAL
    ggml_backend_reg_t metal = ggml_backend_metal_reg();
    if (metal && ggml_backend_reg_dev_count(metal) > 0) {
        add(list, &count, "metal", ggml_backend_reg_dev_get(metal, 0), false);
    }
#endif
    return count;
}

static void describe(const candidate *c, sp_device_info *out) {
    size_t free_bytes = 0, total = 0;
    ggml_backend_dev_memory(c->dev, &free_bytes, &total);
    uint64_t page = sp_os_page_size();
    *out = (sp_device_info){.unified = !c->separate, .import_alignment = page, .memory_total = total, .memory_free = free_bytes};
    memcpy(out->name, c->name, sizeof out->name);
    snprintf(out->description, sizeof out->description, "%s%s", ggml_backend_dev_description(c->dev),
             c->separate ? ", as if its memory were apart (for tests)" : "");
}

const char *sp_device_kinds(void) {
    return "cpu discrete cuda cuda-emulated"
#ifdef SP_WITH_VULKAN
           " vulkan"
#endif
#ifdef SP_WITH_METAL
           " metal"
#endif
        ;
}

sp_status sp_device_list(sp_device_info *infos, size_t capacity, size_t *count, sp_error *err) {
    (void)err;
    ggml_log_set(log_nothing, NULL);
    candidate list[MAX_CANDIDATES];
    *count = find_all(list);
    for (size_t i = 0; i < *count && i < capacity; i++) {
        describe(&list[i], &infos[i]);
    }
    size_t room = *count < capacity ? capacity - *count : 0;
    *count += sp_cuda_device_list(room ? infos + *count : NULL, room);
    return SP_OK;
}

static sp_status no_such_device(const char *name, const candidate *list, size_t count, sp_error *err) {
    char found[300] = "";
    size_t at = 0;
    for (size_t i = 0; i < count && at + 40 < sizeof found; i++) {
        at += (size_t)snprintf(found + at, sizeof found - at, "%s%s", i ? ", " : "", list[i].name);
    }
    return sp_fail(err, SP_ERR_NOT_FOUND, "no device \"%s\" here; there is %s", name, found);
}

static sp_status open_cpu(sp_device *device, int threads, sp_error *err) {
    ggml_backend_cpu_set_n_threads(device->backend, threads);
    struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    device->pool = ggml_threadpool_new(&params);
    device->threads = threads;
    if (!device->pool) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't start %d threads", threads);
    }
    ggml_backend_cpu_set_threadpool(device->backend, device->pool);
    ggml_backend_dev_get_extra_bufts_t layouts =
        (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *list = layouts ? layouts(device->dev) : NULL;
    size_t most = sizeof device->packed_types / sizeof device->packed_types[0] - 1;
    for (size_t i = 0; list && list[i] && i < most; i++) {
        device->packed_types[i] = list[i];
    }
    return SP_OK;
}

/* Does the device work on pages of the host? ggml does not always say so (ggml-vulkan): try. */
static sp_status probe_import(sp_device *device, sp_error *err) {
    uint64_t page = device->info.import_alignment;
    void *at = sp_os_reserve(page);
    if (!at || !sp_os_commit(at, page)) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    char why[200] = "";
    ggml_backend_buffer_t buffer = sp_shim_import(device->dev, at, page, why, sizeof why);
    ggml_backend_buffer_free(buffer);
    sp_os_release(at, page);
    return buffer ? SP_OK
                  : sp_fail(err, SP_ERR_DEVICE, "%s (%s) can't work on the host's pages: %s", device->info.name, device->info.description, why);
}

static sp_status open_candidate(const candidate *c, int threads, sp_device *device, sp_error *err) {
    char why[200] = "";
    device->dev = c->dev;
    device->separate = c->separate;
    describe(c, &device->info);
    device->backend = sp_shim_backend_init(c->dev, why, sizeof why);
    if (!device->backend) {
        return sp_fail(err, SP_ERR_DEVICE, "%s (%s) does not start: %s", device->info.name, device->info.description, why);
    }
    if (ggml_backend_is_cpu(device->backend)) {
        return open_cpu(device, threads > 0 ? threads : sp_os_cores(), err);
    }
    device->upload_weights = true;
#ifdef SP_WITH_VULKAN
    device->lacks = strncmp(c->name, "vulkan", 6) == 0 ? sp_vulkan_lacks : NULL;
#endif
    device->is_lavapipe = strstr(device->info.description, "llvmpipe") != NULL;
    return probe_import(device, err);
}

static void close_ggml(sp_device *device) {
    ggml_backend_free(device->backend);
    ggml_threadpool_free(device->pool);
    sp_turns_destroy(&device->turns);
    free(device);
}

static const sp_device_ops ggml_ops = {
    .close = close_ggml,
    .weights_open = sp_ggml_weights_open,
    .weights_close = sp_ggml_weights_close,
    .pins_pages = sp_ggml_pins_pages,
    .memory_open = sp_ggml_memory_open,
    .memory_close = sp_ggml_memory_close,
    .memory_address = sp_ggml_memory_address,
    .memory_sync = sp_ggml_memory_sync,
    .workspace_open = sp_ggml_workspace_open,
    .workspace_close = sp_ggml_workspace_close,
    .workspace_bytes = sp_ggml_workspace_bytes,
    .workspace_limit_time = sp_ggml_workspace_limit_time,
    .prepare = sp_ggml_prepare,
    .execute = sp_ggml_execute,
    .executable_bytes = sp_ggml_executable_bytes,
    .executable_close = sp_ggml_executable_close,
};

sp_status sp_device_open(const char *name, int threads, sp_device **out, sp_error *err) {
    *out = NULL;
    if (threads < 0 || threads > 512) {
        return sp_fail(err, SP_ERR_ARGUMENT, "%d threads: must be 0 (all cores) to 512", threads);
    }
    if (strncmp(name, "cuda", 4) == 0) {
        return sp_cuda_device_open(name, out, err);
    }
    ggml_log_set(log_nothing, NULL);
    candidate list[MAX_CANDIDATES];
    size_t count = 0, at = 0;
    add(list, &count, "cpu", cpu_device(), false);
    add(list, &count, "discrete", cpu_device(), true);
    bool simple = strcmp(name, "cpu") == 0 || strcmp(name, "discrete") == 0;
    count = simple ? count : find_all(list);
    while (at < count && strcmp(list[at].name, name) != 0) {
        at++;
    }
    if (at == count) {
        return no_such_device(name, list, count, err);
    }
    sp_device *device = calloc(1, sizeof *device);
    if (!device) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    device->ops = &ggml_ops;
    sp_turns_init(&device->turns);
    sp_status status = open_candidate(&list[at], threads, device, err);
    if (status != SP_OK) {
        close_ggml(device);
        return status;
    }
    *out = device;
    return SP_OK;
}
