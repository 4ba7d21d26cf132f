/*
 * Inside the device layer: what a kind of device provides, one function for each of device.h, with the same contract. Every handle of the layer
 * (device, weights, memory, workspace, executable) starts with a pointer to its kind's functions, and a device with its description behind that.
 */
#ifndef SP_DEVICE_OPS_H
#define SP_DEVICE_OPS_H

#include "device/device.h"

typedef struct sp_device_ops {
    void (*close)(sp_device *device);
    sp_status (*weights_open)(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                              sp_error *err);
    void (*weights_close)(sp_device_weights *weights);
    uint64_t (*free_bytes)(const sp_device *device); /* now (optional: what the description says) */
    bool (*pins_pages)(const sp_device *device);     /* (optional; false) */
    sp_status (*memory_open)(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err);
    sp_status (*memory_fork)(sp_device_memory *from, void *base, sp_device_memory **out, sp_error *err); /* (optional; SP_ERR_UNSUPPORTED) */
    void (*memory_close)(sp_device_memory *memory);
    uint64_t (*memory_address)(const sp_device_memory *memory);
    sp_status (*memory_sync)(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err);
    void (*memory_let_go)(sp_device_memory *memory); /* (optional; nothing) */
    sp_status (*workspace_open)(sp_device *device, uint64_t limit_bytes, sp_workspace **out, sp_error *err);
    void (*workspace_close)(sp_workspace *workspace);
    uint64_t (*workspace_bytes)(const sp_workspace *workspace);
    void (*workspace_limit_time)(sp_workspace *workspace, uint64_t milliseconds); /* (optional; runs take any time) */
    sp_status (*prepare)(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                         sp_executable **out, sp_error *err);
    sp_status (*execute)(sp_executable *executable, sp_meanwhile meanwhile, void *user, sp_error *err); /* meanwhile may be NULL */
    uint64_t (*executable_bytes)(const sp_executable *executable);                                      /* (optional; 0) */
    void (*executable_close)(sp_executable *executable);
} sp_device_ops;

/* How every handle starts. */
typedef struct sp_device_handle {
    const sp_device_ops *ops;
} sp_device_handle;

/* How every device starts. */
typedef struct sp_device_head {
    const sp_device_ops *ops;
    sp_device_info info;
} sp_device_head;

#endif
