/* Inside the CUDA device: its handles, and the one way to make the kernel do
 * something. */
#ifndef SP_DEVICE_CUDA_CUDA_IMPL_H
#define SP_DEVICE_CUDA_CUDA_IMPL_H

#include <pthread.h>

#include "device/cuda/driver.h"
#include "device/ops.h"

typedef struct cuda_device {
    const sp_device_ops *ops;
    sp_device_info info;
    sp_cuda_driver *driver;
    k_queue *queue;
    uint64_t state;    /* a k_state on the device */
    uint32_t launches; /* of the kernel, ever; it has left as often unless it runs */
    uint32_t number;   /* of the last command */
    bool lost;
    uint64_t limit_ns; /* a run may always take this long */
    /* Small writes to the device wait here for the next command, which makes them first. */
    k_copy pending[K_MAX_COPIES];
    uint32_t n_pending;
    uint64_t pending_bytes;
    uint8_t *pending_data; /* PENDING_BYTES of host memory that the device reads */
    char why[200];
    pthread_mutex_t lock; /* one command at a time */
} cuda_device;

typedef struct cuda_memory {
    const sp_device_ops *ops;
    cuda_device *device;
    uint8_t *base;
    uint64_t length;
    uint64_t beside; /* the device's bytes */
    bool registered;
} cuda_memory;

typedef struct cuda_workspace {
    const sp_device_ops *ops;
    cuda_device *device;
    uint64_t limit;
    uint64_t at, bytes; /* temporaries on the device */
    void *staging;      /* row ids on their way, in memory of the host that the device
                           reads */
    uint64_t staging_bytes;
    uint64_t generation; /* counts the times that either moved */
} cuda_workspace;

/* Opens a device over a driver, which it owns from then on. */
sp_status sp_cuda_open(sp_cuda_driver *driver, const char *name, sp_device **out, sp_error *err);

/*
 * Copies, then runs the schedule (a device address, or 0), and waits. work:
 * floating-point operations, for the limit. SP_ERR_LIMIT: stopped, it took too
 * long. SP_ERR_DEVICE: the device has failed, and every later call says so.
 * Thread-safe.
 */
sp_status sp_cuda_command(cuda_device *device, const k_copy *copies, uint32_t n_copies, uint64_t schedule, uint64_t work, sp_error *err);

/* Device memory; the kernel leaves first. Thread-safe. */
sp_status sp_cuda_alloc(cuda_device *device, uint64_t size, uint64_t *out, sp_error *err);
void sp_cuda_release(cuda_device *device, uint64_t address);
sp_status sp_cuda_upload(cuda_device *device, uint64_t to, const void *from, uint64_t size, sp_error *err);
sp_status sp_cuda_host_alloc(cuda_device *device, uint64_t size, void **out, sp_error *err);
void sp_cuda_host_release(cuda_device *device, void *at);

/* ---- weights.c ---- */

/* A weight as the device has it. split: the layout for products may be given.
 */
sp_status sp_cuda_weight(sp_device_weights *weights, uint32_t index, bool split, k_tensor *out, sp_error *err);

/* What device.h asks for. */
sp_status sp_cuda_weights_open(sp_device *device, const sp_weight_table *table, sp_progress progress, void *progress_user, sp_device_weights **out,
                               sp_error *err);
void sp_cuda_weights_close(sp_device_weights *weights);
sp_status sp_cuda_prepare(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                          sp_executable **out, sp_error *err);
sp_status sp_cuda_execute(sp_executable *executable, sp_error *err);
void sp_cuda_executable_close(sp_executable *executable);

#endif
