/* The kernel, as a block runs it. */
#ifndef SP_DEVICE_CUDA_RESIDENT_H
#define SP_DEVICE_CUDA_RESIDENT_H

#include "device/cuda/platform.h"

/* Returns when it was stopped or idle for long. b->block and what follows to
 * host are set, the rest is zero. */
void k_resident(k_block *b);

#endif
