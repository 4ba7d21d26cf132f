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
    /* Small writes to the device wait in the packet for the next command, which makes them first. */
    k_copy pending[K_MAX_COPIES];
    uint32_t n_pending;
    bool for_all; /* some copy in it is for all blocks */
    bool to_host; /* some may write the host's pages */
    uint64_t packet_bytes;
    uint8_t *packet; /* K_PACKET of host memory that the device reads: k_entry and bytes */
    uint64_t *marks; /* K_MARKS, in memory of the host that the device writes; NULL: nobody asked what phases cost */
    char why[200];
    pthread_mutex_t lock; /* one command at a time */
} cuda_device;

/* A piece of the device's memory; forks share it until one of them writes. */
typedef struct cuda_piece {
    uint64_t handle;
    uint32_t users;
} cuda_piece;

/* Bytes [from, to) of a region's pages, which the driver has registered. */
typedef struct cuda_pin {
    uint64_t from, to;
} cuda_pin;

enum { CUDA_MAX_PINS = 16, CUDA_MAX_SEEN = 16 };

typedef struct cuda_memory {
    const sp_device_ops *ops;
    cuda_device *device;
    uint8_t *base;
    uint64_t length;
    uint64_t beside;              /* the device's bytes */
    cuda_piece **pieces;          /* that they lie in; NULL: in an allocation of their own */
    bool *wanted;                 /* by piece: about to be written, and somebody else's too */
    uint32_t n_pieces, n_wanted;  /* n_wanted: how many are */
    bool shares;                  /* some piece may have other users */
    cuda_pin pins[CUDA_MAX_PINS]; /* disjoint */
    uint64_t seen[CUDA_MAX_SEEN]; /* where ranges began that were moved lately, + 1: what is moved again is worth registering */
    uint32_t n_pins, next_seen;
    bool cant_pin; /* the driver does not take them */
    /* Bytes [echo_from, echo_to) as the last run left them, which came back with it, until they are written again. */
    uint64_t echo_from, echo_to;
    uint8_t echo[K_ANSWER];
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

/* What the kernel is to do: copies, then a schedule. */
typedef struct cuda_command {
    const k_copy *copies;
    uint32_t n_copies;
    bool take;         /* all copies are from the host's memory: small ones may go along with the command */
    bool alone, small; /* one block can run the schedule; one warp can: K_SMALL */
    uint64_t schedule; /* a device address, or 0 */
    uint64_t work;     /* floating-point operations, for the limit */
    void *answer;      /* where the schedule's answer goes, answer_bytes of it */
    uint32_t answer_bytes;
    sp_meanwhile meanwhile; /* called with user once the bell is rung; may be NULL */
    void *user;
} cuda_command;

/*
 * Does it, and waits. SP_ERR_LIMIT: stopped, it took too long. SP_ERR_DEVICE: the device has failed, and every later call says so. Thread-safe.
 */
sp_status sp_cuda_command(cuda_device *device, const cuda_command *command, sp_error *err);

/* Device memory; the kernel leaves first. Thread-safe. */
sp_status sp_cuda_alloc(cuda_device *device, uint64_t size, uint64_t *out, sp_error *err);
void sp_cuda_release(cuda_device *device, uint64_t address);
sp_status sp_cuda_upload(cuda_device *device, uint64_t to, const void *from, uint64_t size, sp_error *err);
sp_status sp_cuda_host_alloc(cuda_device *device, uint64_t size, void **out, sp_error *err);
void sp_cuda_host_release(cuda_device *device, void *at);

/* With the device's lock held. The kernel leaves: the driver waits for it before it gives memory out or takes it back. */
sp_status sp_cuda_quiet(cuda_device *device, sp_error *err);
/* With the lock held: what waits is written. */
sp_status sp_cuda_flush(cuda_device *device, sp_error *err);
/* With the lock held. Takes the bytes of a small write to the device as they are now; false: they must go at once. */
bool sp_cuda_put_off(cuda_device *device, uint64_t to, const void *from, uint64_t size, sp_status *status, sp_error *err);
/* The device has failed for good. */
sp_status sp_cuda_lose(cuda_device *device, const sp_error *cause, const char *text, sp_error *err);

/* ---- memory.c ---- */

/* With the lock held: bytes [from, to) of the region are about to be written on the device. After any number of these, and before the writing,
 * sp_cuda_own sees to it that nobody else has the pieces they lie in. */
void sp_cuda_wants(cuda_memory *memory, uint64_t from, uint64_t to);
sp_status sp_cuda_own(cuda_memory *memory, sp_error *err);

/* What device.h asks for. */
sp_status sp_cuda_memory_open(sp_device *device, void *base, uint64_t length, sp_device_memory **out, sp_error *err);
sp_status sp_cuda_memory_fork(sp_device_memory *from, void *base, sp_device_memory **out, sp_error *err);
void sp_cuda_memory_close(sp_device_memory *memory);
uint64_t sp_cuda_memory_address(const sp_device_memory *memory);
sp_status sp_cuda_memory_sync(sp_device_memory *memory, uint64_t offset, uint64_t length, sp_sync_direction direction, sp_error *err);
void sp_cuda_memory_let_go(sp_device_memory *memory);

/* ---- phases.c: what the phases of a schedule cost; for who works on kernels. Nothing, unless SAMEPAGE_CUDA_PHASES is set. ---- */

typedef struct cuda_phases {
    uint64_t n_runs;
    double ns[]; /* by phase, of all runs */
} cuda_phases;

sp_status sp_cuda_phases_open(cuda_device *device, sp_error *err);
/* After a run of n phases; *phases is NULL before the first. */
void sp_cuda_phases_take(const cuda_device *device, cuda_phases **phases, uint32_t n);
/* Says what it took, on standard error, and frees it. */
void sp_cuda_phases_tell(cuda_phases *phases, const k_phase *list, uint32_t n, const k_op *ops);

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
sp_status sp_cuda_execute(sp_executable *executable, sp_meanwhile meanwhile, void *user, sp_error *err);
void sp_cuda_executable_close(sp_executable *executable);

#endif
