/* The interface of the layer: each call goes to the kind of device that made the handle. */
#include "device/ops.h"

#include "base/error.h"

static const sp_device_ops *ops_of(const void *handle) {
    return ((const sp_device_handle *)handle)->ops;
}

void sp_device_close(sp_device *device) {
    if (device) {
        ops_of(device)->close(device);
    }
}

const sp_device_info *sp_device_get_info(const sp_device *device) {
    return &((const sp_device_head *)(const void *)device)->info;
}

sp_status sp_device_describe(const sp_device *device, sp_device_info *out) {
    *out = *sp_device_get_info(device);
    if (ops_of(device)->free_bytes) {
        out->memory_free = ops_of(device)->free_bytes(device);
    }
    return SP_OK;
}

sp_status sp_device_weights_open(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                                 sp_error *err) {
    return ops_of(device)->weights_open(device, table, progress, progress_user, out, err);
}

void sp_device_weights_close(sp_device_weights *weights) {
    if (weights) {
        ops_of(weights)->weights_close(weights);
    }
}

sp_status sp_device_memory_open(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err) {
    return ops_of(device)->memory_open(device, base, length, out, err);
}

sp_status sp_device_memory_fork(sp_device_memory *from, void *base, sp_device_memory **out, sp_error *err) {
    *out = NULL;
    return ops_of(from)->memory_fork ? ops_of(from)->memory_fork(from, base, out, err)
                                     : sp_fail(err, SP_ERR_UNSUPPORTED, "the device has nothing that regions could share");
}

void sp_device_memory_close(sp_device_memory *memory) {
    if (memory) {
        ops_of(memory)->memory_close(memory);
    }
}

uint64_t sp_device_memory_address(const sp_device_memory *memory) {
    return ops_of(memory)->memory_address(memory);
}

sp_status sp_device_memory_sync(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err) {
    return ops_of(memory)->memory_sync(memory, offset, length, direction, err);
}

bool sp_device_pins_pages(const sp_device *device) {
    return ops_of(device)->pins_pages && ops_of(device)->pins_pages(device);
}

void sp_device_memory_let_go(sp_device_memory *memory) {
    if (ops_of(memory)->memory_let_go) {
        ops_of(memory)->memory_let_go(memory);
    }
}

sp_status sp_workspace_open(sp_device *device, uint64_t limit_bytes, sp_workspace **out, sp_error *err) {
    return ops_of(device)->workspace_open(device, limit_bytes, out, err);
}

void sp_workspace_close(sp_workspace *workspace) {
    if (workspace) {
        ops_of(workspace)->workspace_close(workspace);
    }
}

void sp_workspace_limit_time(sp_workspace *workspace, uint64_t milliseconds) {
    if (ops_of(workspace)->workspace_limit_time) {
        ops_of(workspace)->workspace_limit_time(workspace, milliseconds);
    }
}

uint64_t sp_workspace_bytes(const sp_workspace *workspace) {
    return ops_of(workspace)->workspace_bytes(workspace);
}

sp_status sp_device_prepare(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                            uint32_t n_weights, sp_executable **out, sp_error *err) {
    *out = NULL;
    for (uint32_t i = 0; i < spec->n_tensors; i++) {
        if (spec->tensors[i].kind == SP_TENSOR_WEIGHT && spec->tensors[i].slot >= n_weights) {
            return sp_fail(err, SP_ERR_NOT_FOUND, "the program uses model %u; the actor has %u", spec->tensors[i].slot, n_weights);
        }
    }
    return ops_of(workspace)->prepare(workspace, spec, bindings, weights, out, err);
}

sp_status sp_device_execute_and(sp_executable *executable, sp_meanwhile meanwhile, void *user, sp_error *err) {
    return ops_of(executable)->execute(executable, meanwhile, user, err);
}

sp_status sp_device_execute(sp_executable *executable, sp_error *err) {
    return sp_device_execute_and(executable, NULL, NULL, err);
}

uint64_t sp_executable_bytes(const sp_executable *executable) {
    const sp_device_ops *ops = ops_of(executable);
    return ops->executable_bytes ? ops->executable_bytes(executable) : 0;
}

void sp_executable_close(sp_executable *executable) {
    if (executable) {
        ops_of(executable)->executable_close(executable);
    }
}
