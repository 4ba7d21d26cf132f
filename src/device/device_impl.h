/* Inside the device layer: what the ggml devices (cpu, vulkan, metal, discrete) have in common. Every handle starts as device/ops.h says. */
#ifndef SP_DEVICE_DEVICE_IMPL_H
#define SP_DEVICE_DEVICE_IMPL_H

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <pthread.h>

#include "device/device.h"
#include "device/ops.h"
#include "device/turns.h"

struct sp_device {
    const sp_device_ops *ops;
    sp_device_info info;
    ggml_backend_dev_t dev;
    ggml_backend_t backend;
    struct ggml_threadpool *pool;                                           /* CPU devices */
    int threads;                                                            /* in it */
    bool separate;                                                          /* regions have a buffer beside them */
    bool is_lavapipe;                                                       /* Mesa's driver for CPUs */
    bool stale;                                                             /* the next run needs a new backend; changed by whoever has the turn */
    const char *(*lacks)(const struct ggml_tensor *node, size_t alignment); /* what it can't do though it says so, or NULL; optional */
    bool upload_weights;                                                    /* weights are copied to the device instead of used from the mapping */
    ggml_backend_buffer_type_t packed_types[8];                             /* faster layouts of weights; ends with NULL */
    sp_turns turns;                                                         /* a ggml backend computes one graph at a time */
};

struct sp_device_memory {
    const sp_device_ops *ops;
    sp_device *device;
    uint8_t *base;
    uint64_t length;
    uint8_t *beside; /* separate memory: the device's own bytes; NULL where memory is unified */
    ggml_backend_buffer_t buffer;
};

struct sp_workspace {
    const sp_device_ops *ops;
    sp_device *device;
    uint64_t limit;
    uint64_t run_ms;   /* 0: any time */
    uint64_t deadline; /* of the run under way, for the CPU's callback */
    ggml_gallocr_t allocator;
    uint64_t bytes;
    uint64_t generation; /* counts the times that the allocator's buffer moved */
    sp_turn turn;
};

/* The ggml devices' side of device.h; see there. */
sp_status sp_ggml_weights_open(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                               sp_error *err);
void sp_ggml_weights_close(sp_device_weights *weights);
bool sp_ggml_pins_pages(const sp_device *device);
sp_status sp_ggml_memory_open(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err);
void sp_ggml_memory_close(sp_device_memory *memory);
uint64_t sp_ggml_memory_address(const sp_device_memory *memory);
sp_status sp_ggml_memory_sync(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err);
sp_status sp_ggml_workspace_open(sp_device *device, uint64_t limit_bytes, sp_workspace **out, sp_error *err);
void sp_ggml_workspace_close(sp_workspace *workspace);
uint64_t sp_ggml_workspace_bytes(const sp_workspace *workspace);
void sp_ggml_workspace_limit_time(sp_workspace *workspace, uint64_t milliseconds);
sp_status sp_ggml_prepare(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                          sp_executable **out, sp_error *err);
sp_status sp_ggml_execute(sp_executable *executable, sp_meanwhile meanwhile, void *user, sp_error *err);
uint64_t sp_ggml_executable_bytes(const sp_executable *executable);
void sp_ggml_executable_close(sp_executable *executable);

/* One weight where mul_mat wants it (packed, if the device has a faster layout) or where anything else does. Thread-safe. */
sp_status sp_device_weights_get(sp_device_weights *weights, uint32_t index, bool for_product, struct ggml_tensor **out, sp_error *err);
/* A program has all that it wants: what was converted for it is kept for the next start. Failure is told, and changes nothing. Thread-safe. */
void sp_device_weights_keep(sp_device_weights *weights);

/* May source `source` of an operation be in the layout for products, if there is one? */
bool sp_lower_takes_packed(const sp_spec *spec, const sp_spec_tensor *t, int source);
/* Keeps the allocator from putting the result over a source of which every row is read. */
void sp_lower_keep_sources(const sp_spec_tensor *t, struct ggml_tensor *const *sources);

/* Makes an operation's ggml tensor. sources: by position, NULL where absent. The program was verified: ggml's own checks hold. */
struct ggml_tensor *sp_lower_op(struct ggml_context *context, const sp_spec_tensor *t, struct ggml_tensor *const *sources);

/* Operations of a program whose rows are to be computed alone, one for each row; NULL: it is done at once, by sp_lower_op. For ggml's CPU code. */
struct ggml_tensor *sp_lower_rows_alone(struct ggml_context *context, const sp_spec *spec, const sp_spec_tensor *t,
                                        struct ggml_tensor *const *sources);
/* At most how many ggml tensors that makes beyond one for each operation. SP_ERR_LIMIT: too many. */
sp_status sp_rows_alone_nodes(const sp_spec *spec, uint64_t *nodes, sp_error *err);

#ifdef SP_WITH_VULKAN
/* ggml-vulkan's devices, or NULL where Vulkan does not start. Thread-safe. */
ggml_backend_reg_t sp_vulkan_reg(void);
/* What ggml-vulkan takes for granted about a node that it claims to support, and what is not so; NULL: nothing. alignment: of its buffers. */
const char *sp_vulkan_lacks(const struct ggml_tensor *node, size_t alignment);
#endif

/* ---- ggml_shim.cpp: calls that may throw, turned into errors ---- */
#ifdef __cplusplus
extern "C" {
#endif
/* NULL on failure, with the reason in message. */
ggml_backend_t sp_shim_backend_init(ggml_backend_dev_t dev, char *message, size_t capacity);
ggml_backend_buffer_t sp_shim_import(ggml_backend_dev_t dev, void *at, size_t length, char *message, size_t capacity);
ggml_backend_buffer_t sp_shim_alloc(ggml_backend_buffer_type_t type, size_t length, char *message, size_t capacity);
bool sp_shim_alloc_graph(ggml_gallocr_t allocator, struct ggml_cgraph *graph, char *message, size_t capacity);
bool sp_shim_compute(ggml_backend_t backend, struct ggml_cgraph *graph, char *message, size_t capacity);
bool sp_shim_set(struct ggml_tensor *tensor, const void *data, size_t offset, size_t length, char *message, size_t capacity);
#ifdef __cplusplus
}
#endif

#endif
