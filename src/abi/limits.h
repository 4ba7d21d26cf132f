/* What a guest may use up: one table. Defaults, the command line's --limit-* options and the texts of errors come from it. */
#ifndef SP_ABI_LIMITS_H
#define SP_ABI_LIMITS_H

#include "samepage.h"

/* X(field of sp_limits, default, what it limits). In the order of sp_limits, where the same words stand. */
#define SP_LIMITS(X)                                                                                                                                 \
    X(memory_bytes, 4ull << 30, "bytes of linear memory")                                                                                            \
    X(table_elements, 1ull << 20, "elements of a Wasm table")                                                                                        \
    X(step_ms, 10000, "milliseconds of guest code in one step")                                                                                      \
    X(regions, 64, "regions open at once")                                                                                                           \
    X(shared_bytes, 4ull << 30, "bytes in open regions")                                                                                             \
    X(programs, 64, "programs open at once")                                                                                                         \
    X(program_bytes, 16ull << 20, "bytes of one program")                                                                                            \
    X(prepared_bytes, 1ull << 30, "bytes that prepared programs hold")                                                                               \
    X(temporary_bytes, 4ull << 30, "bytes of temporaries of one run")                                                                                \
    X(run_flops, 1000000000000000ull, "estimated operations of one run")                                                                             \
    X(run_ms, 60000, "milliseconds of one run on the device")                                                                                        \
    X(device_ms, 86400000, "milliseconds of all runs on the device")                                                                                 \
    X(text_bytes, 16ull << 20, "bytes of one text to tokenise, write out or format")                                                                 \
    X(message_bytes, 16ull << 20, "bytes of one message")                                                                                            \
    X(messages, 1024, "messages unread")                                                                                                             \
    X(sent_messages, 65536, "messages sent in one step")                                                                                             \
    X(output_bytes, 1ull << 30, "bytes of standard output and error")

#define SP_LIMIT_ID(field, value, what) SP_LIMIT_##field,
typedef enum sp_limit_id { SP_LIMITS(SP_LIMIT_ID) SP_N_LIMITS } sp_limit_id;
#undef SP_LIMIT_ID

typedef struct sp_limit {
    const char *name; /* the field; the option is --limit- and this with dashes */
    uint64_t value;   /* the default */
    const char *what;
} sp_limit;

const sp_limit *sp_limit_get(sp_limit_id id);

/* The field of a limit. */
uint64_t *sp_limit_field(sp_limits *limits, sp_limit_id id);

/* Puts defaults in place of zeros. */
void sp_limits_fill(sp_limits *limits);

/* "messages unread: 1025; the limit is 1024 (--limit-messages)". Returns SP_ERR_LIMIT. */
sp_status sp_limit_reached(const sp_limits *limits, sp_limit_id id, uint64_t wanted, sp_error *err);

#endif
