/*
 * memory: the reservation that is a guest's linear memory, and images that memories map copy-on-write.
 * May call: base. All mapping calls of the system stand behind memory/os.h (os_linux.c, os_darwin.c).
 */
#ifndef SP_MEMORY_MEMORY_H
#define SP_MEMORY_MEMORY_H

#include <stdbool.h>

#include "samepage.h"

/*
 * One linear memory: a reservation of address space, PROT_NONE, of which the first `size` bytes are readable and writable.
 * The base never moves. Not thread-safe.
 */
typedef struct sp_memory sp_memory;

/*
 * Reserves reservation + guard bytes and makes the first `size` usable (zeros). All are rounded up to the host's page size.
 * SP_ERR_NO_MEMORY when the system refuses. *out is NULL on failure.
 */
sp_status sp_memory_create(uint64_t size, uint64_t reservation, uint64_t guard, sp_memory **out, sp_error *err);
void sp_memory_destroy(sp_memory *memory);

uint8_t *sp_memory_base(const sp_memory *memory);
uint64_t sp_memory_size(const sp_memory *memory);
uint64_t sp_memory_reservation(const sp_memory *memory);

/* Makes the first new_size bytes usable. SP_ERR_LIMIT beyond the reservation; a smaller new_size is SP_ERR_ARGUMENT. Nothing changes on failure. */
sp_status sp_memory_grow(sp_memory *memory, uint64_t new_size, sp_error *err);

/*
 * True once a page that was mapped from a file could not be read (the file was truncated, the disk failed). The access that found it went on, and
 * the whole memory became zeros: nothing in it is what it was.
 */
bool sp_memory_is_lost(const sp_memory *memory);

/*
 * Immutable pages that memories map copy-on-write: a range of a file (the descriptor is duplicated) or of an anonymous file.
 * Thread-safe; reference-counted by sp_image_retain and sp_image_release.
 */
typedef struct sp_image sp_image;
/* From size bytes at bytes: written to an anonymous file; runs of zero pages stay holes. */
sp_status sp_image_from_bytes(const void *bytes, uint64_t size, sp_image **out, sp_error *err);
/* From [offset, offset + size) of a file that must never shrink or change in that range; offset page-aligned. */
sp_status sp_image_from_file(int fd, uint64_t offset, uint64_t size, sp_image **out, sp_error *err);
sp_image *sp_image_retain(sp_image *image);
void sp_image_release(sp_image *image);
uint64_t sp_image_size(const sp_image *image);
/* Replaces [at, at + length) of the memory by a private mapping of the image from image_offset on. All page-aligned, inside the usable size. */
sp_status sp_image_map(sp_image *image, uint64_t image_offset, sp_memory *memory, uint64_t at, uint64_t length, sp_error *err);

/*
 * Which pages of [at, at + length) were written since they were mapped from an image (anonymous pages: since they were touched).
 * Sets bit i of bitmap for page i; bitmap has room for length / page size bits, rounded up to 64. SP_ERR_UNSUPPORTED where the
 * system can't tell (then compare contents).
 */
sp_status sp_memory_written_pages(const sp_memory *memory, uint64_t at, uint64_t length, uint64_t *bitmap, sp_error *err);

#endif
