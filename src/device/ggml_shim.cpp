/* ggml-vulkan throws C++ exceptions (a lost device, no memory) through ggml's C interface, and asserts. Here they become errors. */
#include "device/device_impl.h"
#include "device/guard.h"

#include <cstdio>

namespace {

void note(char *message, size_t capacity, const char *text) {
    std::snprintf(message, capacity, "%s", text);
}

template <typename Result, typename Call> Result guarded(char *message, size_t capacity, Result failed, const char *otherwise, Call call) {
    struct both {
        Call &call;
        Result result;
    } all{call, failed};
    auto run = [](void *user) { static_cast<both *>(user)->result = static_cast<both *>(user)->call(); };
    if (!sp_shim_guard(run, &all, message, capacity)) {
        return failed;
    }
    if (all.result == failed) {
        note(message, capacity, otherwise);
    }
    return all.result;
}

} // namespace

ggml_backend_t sp_shim_backend_init(ggml_backend_dev_t dev, char *message, size_t capacity) {
    return guarded(message, capacity, ggml_backend_t(nullptr), "the driver refused", [&] { return ggml_backend_dev_init(dev, nullptr); });
}

ggml_backend_buffer_t sp_shim_import(ggml_backend_dev_t dev, void *at, size_t length, char *message, size_t capacity) {
    return guarded(message, capacity, ggml_backend_buffer_t(nullptr), "the driver can't import host memory",
                   [&] { return ggml_backend_dev_buffer_from_host_ptr(dev, at, length, length); });
}

ggml_backend_buffer_t sp_shim_alloc(ggml_backend_buffer_type_t type, size_t length, char *message, size_t capacity) {
    return guarded(message, capacity, ggml_backend_buffer_t(nullptr), "out of device memory",
                   [&] { return ggml_backend_buft_alloc_buffer(type, length); });
}

bool sp_shim_alloc_graph(ggml_gallocr_t allocator, struct ggml_cgraph *graph, char *message, size_t capacity) {
    return guarded(message, capacity, false, "out of device memory",
                   [&] { return ggml_gallocr_reserve(allocator, graph) && ggml_gallocr_alloc_graph(allocator, graph); });
}

bool sp_shim_compute(ggml_backend_t backend, struct ggml_cgraph *graph, char *message, size_t capacity) {
    auto compute = [&] { return ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS; };
    if (ggml_backend_is_cpu(backend)) { /* its threads wait for each other: none may be unwound alone */
        const bool done = compute();
        if (!done) {
            note(message, capacity, "the computation failed");
        }
        return done;
    }
    return guarded(message, capacity, false, "the computation failed", compute);
}

bool sp_shim_set(struct ggml_tensor *tensor, const void *data, size_t offset, size_t length, char *message, size_t capacity) {
    return guarded(message, capacity, false, "the upload failed", [&] {
        ggml_backend_tensor_set(tensor, data, offset, length);
        return true;
    });
}
