/* Converted weights as a file that the next start maps. The file is untrusted: what does not fit its checksums is not used. */
#ifndef SP_DEVICE_KEPT_WEIGHTS_H
#define SP_DEVICE_KEPT_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "samepage.h"

enum { SP_KEPT_ALIGNMENT = 4096 }; /* of each weight in the file, and so in memory */

/* One converted weight. */
typedef struct sp_kept_weight {
    uint32_t index;  /* in the model's table */
    uint32_t layout; /* which of the device's */
    const void *bytes;
    uint64_t size;
} sp_kept_weight;

typedef struct sp_kept_weights sp_kept_weights;

/* Maps the file; NULL: there is none, or it is damaged or another model's or machine's (key). */
sp_kept_weights *sp_kept_weights_open(const char *path, const uint64_t key[2]);
void sp_kept_weights_close(sp_kept_weights *kept);

/* The bytes of a weight in a layout, valid until the file is closed; NULL: the file does not have it, or what it has does not fit its checksum. */
const void *sp_kept_weights_find(const sp_kept_weights *kept, uint32_t index, uint32_t layout, uint64_t size);

/*
 * Writes a file of these weights under a temporary name, renamed when it is whole: one writer at a time, of all processes; another one leaves it to
 * the first and succeeds. Files of other models in the folder that were not used for longest give way, so that all are at most `limit` bytes.
 * SP_ERR_LIMIT: it is larger than that alone. SP_ERR_IO: the disk is full, or the folder can't be written.
 */
sp_status sp_kept_weights_write(const char *path, const uint64_t key[2], const sp_kept_weight *weights, uint32_t n, uint64_t limit, sp_error *err);

#endif
