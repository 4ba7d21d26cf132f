/*
 * cuda: verified programs on an NVIDIA GPU, interpreted by one resident kernel;
 * and the same device on threads of the host, for tests. The kernels are C,
 * compiled to PTX when the project is built, and the driver's library is opened
 * at run time. May call: device/ops.h, program, memory, base.
 */
#ifndef SP_DEVICE_CUDA_CUDA_H
#define SP_DEVICE_CUDA_CUDA_H

#include "device/device.h"

/* Opens "cuda-emulated" or "cuda:N". SP_ERR_NOT_FOUND: no driver or no such
 * card, with what was found; SP_ERR_UNSUPPORTED: the card is too old. */
sp_status sp_cuda_device_open(const char *name, sp_device **out, sp_error *err);

/* Describes the cards that there are, and the emulated one. Returns how many;
 * fills at most capacity. */
size_t sp_cuda_device_list(sp_device_info *infos, size_t capacity);

/* Bytes a second that the driver reads and writes together when it copies half of `bytes` within the device's memory: the best of a few. */
sp_status sp_cuda_copy_bandwidth(sp_device *device, uint64_t bytes, double *rate, sp_error *err);

#endif
