/* What targets share that damage something real: a list of edits in an input, and a tiny model to damage. */
#ifndef SP_FUZZ_EDITS_H
#define SP_FUZZ_EDITS_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

/* Eight bytes of an input: what is changed, how, and to what. */
typedef struct edit {
    uint32_t place; /* 24 bits */
    uint8_t kind;
    uint32_t value; /* small numbers are made into numbers at an edge: edit_value */
} edit;

/* The i-th edit of an input that has `skip` bytes in front of its edits; false: there are no more. */
int edit_get(const uint8_t *data, size_t size, size_t skip, size_t i, edit *out);
/* 0, 1, -1, powers of two and their neighbours for values below 64; else the value itself. */
uint64_t edit_value(uint32_t value);

/* A GGUF of one layer and 300 words, made once: its path, in a folder that is gone when the process is. */
const char *tiny_model(void);
/* The bytes of a file; malloc'ed. Aborts where it can't be read. */
uint8_t *read_file(const char *path, size_t *size);

/* A GGUF file to damage: edits set numbers in its header to numbers at an edge, and cut its end off, or all but its end. */
typedef struct header {
    uint8_t *whole, *damaged; /* of `size` bytes */
    size_t size, header_size;
} header;

/* Reads it the first time. */
void header_of(header *h, const char *path);
/* Makes h->damaged of an input with one byte in front of its edits; how many of its bytes count. */
size_t header_damage(header *h, const uint8_t *data, size_t size);

/* Asks for the model's program. Where there is one, it must be one that the verifier accepts. */
void trace_model(sp_model *model);

#endif
