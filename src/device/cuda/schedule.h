/*
 * What the host hands to the kernel: a schedule of phases, each a row of
 * operations that depend on nothing new, and the queue by which it is told to
 * run one. Shared by the host's C and the kernels' C; every field has the same
 * size on both sides.
 */
#ifndef SP_DEVICE_CUDA_SCHEDULE_H
#define SP_DEVICE_CUDA_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    K_MAX_SRC = 7,
    K_MAX_EXTRA = 3,
    K_MAX_PARAMS = 16,
    K_CARD_THREADS = 256, /* of a block on a card that compute */
    K_CARD_WARPS = K_CARD_THREADS / 32,
    K_CARD_LAUNCHED = 288,   /* and the warp that fetches weights */
    K_COLUMNS = 8,           /* columns of a product that a warp computes at once */
    K_ATTENTION_CHUNK = 256, /* positions of a cache that a block attends to at once */
    K_ATTENTION_HEADS = 16,  /* heads that share keys and are computed together at most */
    K_HALVES_HEADS = 8,      /* likewise, where the cache is of halves; tasks that such attention has are less than */
    K_HALVES_TASKS = 1 << 20,
};

/* Shared memory of a block: the ring's barriers, the operations themselves, what they work in; behind that the ring, or, where the card has no room
 * for it or can't fill it by itself, one slot and what tiles need. */
enum {
    K_CONTROL = 1024,
    K_OPS = 2048,
    K_BEFORE_WORK = K_CONTROL + K_OPS,
    K_WORK = 44 * 1024,
    K_SLOT = 36 * 1024,
    K_SLOTS = 5,
    K_ROUND = 8,                                          /* from a tile's number to that of the next in its slot: a power of two */
    K_SHARED = K_BEFORE_WORK + K_WORK + K_SLOTS * K_SLOT, /* with a ring, all that there is; without: */
    K_SHARED_LEAST = 99 * 1024,
    K_LONGEST_ROW = 17 * 1024, /* bytes of a row, or a slice of it, that goes through a slot: of its column there is as much in the working memory */
    K_ROWS_OF_NIBBLES = 4,     /* rows of q4_0 that a warp takes at once, so that a lane has eight pieces under way; */
    K_ROWS_OF_OTHERS = 2,      /* of other types */
    K_HELD_BYTES = 2048,       /* elements of a column that a warp holds in registers, for quants; */
    K_HELD_HALVES = 1024,      /* for halves, */
    K_LONGEST_HALVES = 16384,  /* or twice as many, for rows that are longer than all warps together hold of them; so long at most */
    K_SUMS = 64,               /* rows that have sums in the working memory, or segments of rows */
    K_SUM = 36,                /* floats of one: a lane each, and so that rows lie in other banks */
    K_ONE_SUM = 16,            /* floats of one of kernel_stream_one.h: two lanes each; a thread has one */
    K_PIECES = 4,              /* of a slot, asked for one by one: */
    K_PIECE = K_SLOT / K_PIECES,
    K_UNDER_WAY = 3,      /* so many at once, since all that is asked for behind them waits for them, too; */
    K_UNDER_WAY_LONG = 4, /* more if a block has more than so many bytes of an operation's weights; */
    K_LONG_STREAM = 200 * 1024,
    K_UNDER_WAY_LONGEST = 2 * K_PIECES, /* as many as k_fetch_tile can have, if nobody waits for anything else */
    K_LONGEST_STREAM = 1024 * 1024,
};

_Static_assert(K_SHARED <= 227 * 1024 && K_BEFORE_WORK + K_WORK + K_SLOT <= K_SHARED_LEAST, "slots have room");

/* Layouts of weights that only this device has: a row's quants first, 16-byte aligned, then its scales. */
enum { K_TYPE_Q4_0_SPLIT = 1002, K_TYPE_Q8_0_SPLIT = 1008 };

/* Operations beside those of programs, numbered on behind them. */
enum { K_OP_STREAM = 1000, K_OP_TILES, K_OP_FLAT, K_OP_FLAT_ONE, K_OP_ATTEND, K_OP_ATTEND_HALVES, K_OP_HALVES, K_OP_ROPE, K_OP_MASK_MAP, K_OP_TURNS };

/* Products of at least so many columns go by tiles of the result: so many rows and columns; along rows of the matrix by so many elements. */
enum { K_TILES_FROM = 16, K_TILE_M = 128, K_TILE_N = 128, K_TILE_K = 64, K_TILE_STAGES = 6 /* on Hopper */ };

/* What a tile's left side is: rows of halves, or of quants in their split layouts. */
enum { K_BY_F16, K_BY_Q4, K_BY_Q8 };

/* params of a K_OP_TILES. extra[0] and extra[1]: what its rows (0: nothing) and columns are multiplied with, after K_OP_HALVES. split: pieces of a
 * row; scratch and table: their sums, and by tile how many are there. */
enum { K_TILES_BY = 0, K_TILES_STAGES };

/* On Hopper, the source at which maps of K_MAP bytes lie. Of a K_OP_TILES: of its matrix, of a gated unit's other, of both's scales; of a
 * K_OP_ATTEND: of keys and values. */
enum { K_SRC_MAPS = 6, K_MAPS = 4, K_MAP = 128 };

/* Bytes of a stage of shared memory: both sides; of quants also what is on its way, and their scales. */
static inline uint32_t k_tile_stage_bytes(uint32_t by) {
    uint32_t quants = by == K_BY_F16 ? 0 : K_TILE_M * K_TILE_K / (by == K_BY_Q4 ? 2 : 1) + 1024;
    return (K_TILE_M + K_TILE_N) * K_TILE_K * 2 + quants;
}

/*
 * K_OP_HALVES puts rows of any type as halves where tiles bring them from; what a row lacks to a multiple of K_TILE_K is zeros. A row is multiplied
 * with a power of two, so that its largest fits; scratch: the inverse of it, by row. Left sides stay rows. Right sides: K_TILE_K elements of all rows
 * (padded to 32), then the next of all rows; of these lines each has its pieces of 16 bytes in another order: piece i of row r is at i ^ r % 8, so
 * that loads out of shared memory meet no bank twice.
 */
enum { K_HALVES_TEAM = 0 /* warps of a row */, K_HALVES_EPS, K_HALVES_GLU, K_HALVES_ALPHA, K_HALVES_LIMIT, K_HALVES_LEFT };
static inline uint32_t k_halves_rows(uint32_t rows) {
    return (rows + 31) / 32 * 32;
}
static inline uint32_t k_halves_steps(uint32_t n) {
    return (n + K_TILE_K - 1) / K_TILE_K;
}

/* A K_OP_MASK_MAP says of 16 tokens and so many positions what a mask does there. params: of how many tokens. */
enum { K_MAP_POSITIONS = 32, K_MAP_TOKENS = 0 };

/* params of a K_OP_ATTEND, beside those of the operation that it is: results go as halves, as a K_OP_HALVES puts right sides, in so many lines (0:
 * they are floats); extra[1]: their inverse scales. */
enum { K_ATTEND_LINES = 8 };

/* Positions of a tile of a K_OP_ATTEND_HALVES; by kernel_attend_one.h, from one tile of a warp to its next, and of the longest piece: of heads of 64
 * three tiles of each warp, of 128 two. */
enum { K_FEW_TILE = 16, K_ONE_STRIDE = K_CARD_WARPS * K_FEW_TILE, K_ONE_MOST = 3 * K_ONE_STRIDE, K_ONE_MOST_WIDE = 2 * K_ONE_STRIDE };

/* A piece of a token's head in scratch memory: the largest score, the sum of weights, two floats that nothing uses, the values. */
enum { K_ATTEND_VALUES = 4 };

/*
 * Sources of a K_OP_ATTEND_HALVES that may take the newest row of keys and values from the products that make them: the row's ids; extra[0] and
 * extra[1] are the rows then, stamped, and extra[K_NEWEST] of each such product is the row that it hands on beside the cache's.
 */
enum { K_SRC_KEY_ID = 5, K_SRC_VALUE_ID = 6, K_NEWEST = 1 };

/* Positions of a cache that a K_OP_ATTEND brings together on Hopper. */
enum { K_ATTEND_MOST = 64 };

typedef struct k_tensor {
    uint64_t data; /* the device's address */
    int64_t nb[4];
    int32_t ne[4];
    uint32_t type, stamped; /* stamped: 1 if its floats say when they were written (kernel_stamp.h) */
} k_tensor;

/* What is done to a product's right side while it is read into shared memory, and to its result. K_AFTER_LARGEST: argmax of one streamed column;
 * scratch: where it goes, table: as argmax has it. */
enum { K_BEFORE_NONE = 0, K_BEFORE_RMS_NORM = 1, K_BEFORE_GLU = 2 };
enum { K_AFTER_NONE = 0, K_AFTER_ADD = 1, K_AFTER_GLU = 2, K_AFTER_ROPE = 4, K_AFTER_SET_ROW = 8, K_AFTER_LARGEST = 16 };

/* params of a K_OP_STREAM */
enum {
    K_TILE_ROWS = 0, /* rows of a tile, a power of two */
    K_SEGMENTS,      /* pieces of a row, as a power of two: sums of their own */
    K_UNIT,          /* rows that stay together */
    K_EPS,
    K_GLU_KIND,
    K_GLU_ALPHA,
    K_GLU_LIMIT,
    K_ROPE_DIMS,
    K_ROPE_HEAD,
    K_SLICES, /* pieces of a row that come one behind the other, of all rows: what a slot has room for; of halves alone */
};
/* params of a K_OP_FLAT (two sides) and a K_OP_FLAT_ONE (one), beside those of the operation that it is */
enum { K_FLAT_OP = 14, K_FLAT_ROW /* the right side is one row of so many times four elements; 0: as long as the left */ };
/* of a rope and of a K_OP_TURNS, which puts the sine and the cosine of each pair of a token where others take them: the magnitude */
enum { K_ROPE_BY = 15 };
/* and the sources of a K_OP_STREAM */
enum { K_SRC_LEFT = 0, K_SRC_RIGHT, K_SRC_LEFT2, K_SRC_IDS, K_SRC_TURNS };

typedef struct k_op {
    uint32_t op;      /* SP_OP_* or K_OP_* */
    uint32_t n_parts; /* blocks' worth of work that it is cut into */
    uint32_t before, after;
    uint32_t n_src, split; /* split: pieces of the cache (attention) */
    uint32_t params[K_MAX_PARAMS];
    uint64_t scratch, table; /* device addresses: partial results; numbers that
                                the host worked out */
    k_tensor dst, src[K_MAX_SRC];
    k_tensor extra[K_MAX_EXTRA]; /* of what is fused before (the norm's weight, the gate)
                          and after (the residual) */
} __attribute__((aligned(16))) k_op;

/* Where the part-th of so many shares of n begins. Cards are slow at dividing 64 bits. */
static inline uint32_t k_share(uint32_t n, uint32_t part, uint32_t parts) {
    uint64_t at = (uint64_t)part * n;
    return at >> 32 ? (uint32_t)(at / parts) : (uint32_t)at / parts;
}

/* Rows of the result that a tile of a K_OP_TILES has: a gated unit's is of two matrices. */
static inline uint32_t k_tile_rows(const k_op *op) {
    return op->after == K_AFTER_GLU ? K_TILE_M / 2 : K_TILE_M;
}

/* The first row of a part of a K_OP_STREAM. */
static inline uint32_t k_stream_from(const k_op *op, uint32_t part) {
    uint32_t unit = op->params[K_UNIT];
    return k_share((uint32_t)op->src[K_SRC_LEFT].ne[1] / unit, part, op->n_parts) * unit;
}

/* Rows of a K_OP_STREAM that go through so many sums at once: a gate's two products take turns so often. A tile has a power of two of them. */
static inline uint32_t k_stream_most(const k_op *op, uint32_t sums) {
    uint32_t rows = sums >> op->params[K_SEGMENTS] >> (op->after & K_AFTER_GLU ? 1 : 0);
    return rows & ~(op->params[K_TILE_ROWS] - 1);
}

typedef struct k_phase {
    uint32_t first_op, n_ops, n_parts;
    uint32_t flows; /* begins without a barrier */
} k_phase;

/* What a block does first in a phase: this part of this operation; of a K_OP_STREAM the rows [from, to). K_NO_WORK: nothing.
 * In `part`, K_MORE: the phase has more parts than there are blocks; K_FLOWS: all that the next phase needs is there or stamped, so that it begins
 * without a barrier; K_MARKED: somebody wants to know when phases begin; K_LARGEST: what decoding does ends in an argmax; K_OWN_SLOT: a slot of the
 * ring is left to the work; K_DECODES: what of the few things that decoding does all the time, or another (K_DOES_ANY). */
typedef struct k_work {
    uint32_t op, part, from, to;
} k_work;

enum { K_NO_WORK = 0x7fffffff };
#define K_MORE 0x80000000u
#define K_FLOWS 0x40000000u
#define K_MARKED 0x20000000u
#define K_LARGEST 0x10000000u
#define K_DECODES 0x0f000000u
#define K_OWN_SLOT 0x00800000u
#define K_NUMBER 0x007fffffu
enum {
    K_DOES_ANY = 0,
    K_DOES_NOTHING = 1 << 24,
    K_DOES_Q4 = 2 << 24, /* of kernel_stream_one.h: all warps together take a tile at once, each lane's worth of the column; */
    K_DOES_Q8 = 3 << 24,
    K_DOES_F16 = 4 << 24,
    K_DOES_LONG = 5 << 24,   /* rows of halves too long for that, whole nevertheless */
    K_DOES_STREAM = 6 << 24, /* others */
    K_DOES_ATTEND = 7 << 24,
    K_DOES_Q4_EARLY = 8 << 24 /* the first tile is loaded before the column is there: worth its instructions where there are many tiles */
};

/* A range of weights that a block streams through its ring, in the order of the phases that want them; or, where tile_bytes is 0, of a cache's keys
 * or values that it brings near, which attention is to look at soon, or no range, but a slot that is left to work. */
typedef struct k_stream {
    uint64_t from, step;        /* step: from one tile to the next, in bytes */
    uint32_t bytes, tile_bytes; /* bytes: 0 behind the last */
    uint32_t under_way, leaves; /* under_way: so many pieces at once */
} k_stream;

/* A program that one warp runs (K_SMALL): an operation of one side on n floats, one behind the other. */
typedef struct k_small {
    uint64_t to, from;
    uint32_t kind, n;
    float params[2];
} k_small;

/*
 * Behind it, so that nobody must look where, k_work [n_phases + 2][blocks], the last two of no work (K_DOES_ANY). What a run begins with lies at
 * places that are known: `first` is the first operation again, `small` what there is to do where that is all.
 */
typedef struct k_schedule {
    uint64_t phases, ops; /* device addresses */
    uint64_t streams;     /* [blocks][n_streams]; an empty one ends a block's */
    uint32_t n_phases, n_ops, n_streams;
    uint32_t ring_from; /* the phase behind the last that needs the ring's memory: what is streamed before goes without */
    uint32_t reserved[2];
    uint32_t turn; /* of what is stamped; changes with each run */
    uint32_t answer_bytes;
    uint64_t answer; /* what the host gets when it has run */
    k_op first;
    k_small small;
} k_schedule;

/* Bytes that are copied before the schedule runs, between memory of the host
 * and the device's. */
typedef struct k_copy {
    uint64_t to, from, bytes;
} k_copy;

/* A copy in a packet. from 0: its bytes follow, padded to 16. */
typedef struct k_entry {
    uint64_t to, from, bytes, reserved;
} k_entry;

enum {
    K_MAX_COPIES = 32,
    K_PACKET = 32 * 1024,     /* bytes of entries that go with a command */
    K_COPY_ALONE = 16 * 1024, /* a copy up to this long is made by block 0 */
    K_ANSWER = 64,            /* bytes of an answer, a multiple of 4 */
    K_MARKS = 4096,
    K_COMMAND = 3, /* words of a command */
};

/*
 * In the lower bits of a schedule's address: the kernel is to leave; there are copies for all blocks; block 0 does it all alone; its first warp does;
 * what is written may lie in the host's memory. And among blocks: what differs from command to command; nobody rang; copies are under way, to be
 * waited for before the first phase.
 */
enum { K_LEAVE = 1, K_ALL = 2, K_ALONE = 4, K_SMALL = 64, K_TO_HOST = 128, K_TURN = 8, K_IDLE = 16, K_LATER = 32, K_FLAGS = 255 };

/*
 * The queue lies in memory of the host that the device reads. A command is the address of a schedule (0: none) with flags, its lower half first, and
 * the bytes of the packet that goes with it. Above each of these words stands the command's number: what polls for it has read it then. The kernel
 * copies, runs the schedule, and sets done to the number. idle_ns: it leaves after that long without work. marks: where the host wants the times at
 * which a schedule's phases begin, and the last ends (K_MARKS of them; 0: nowhere).
 */
typedef struct k_queue {
    uint64_t command[K_COMMAND];
    uint64_t idle_ns, marks, packet;
    uint8_t apart[80];
    uint64_t answer[K_ANSWER / 4]; /* written by the kernel alone, as what follows; like a command: above each word its number */
    uint32_t done, stopped;
    uint32_t left; /* counts the kernel's exits */
    uint32_t reserved[13];
} k_queue;

/* The kernel's own memory on the device. */
typedef struct k_state {
    uint32_t arrived; /* blocks at the barrier, ever; the upper bit: stopped */
    uint32_t apart[31];
    uint32_t stop; /* written by the host: leave at the next barrier; the run in
                      progress is lost */
    uint32_t apart2[31];
    /* what block 0 read from the queue, for all: a schedule's address with flags */
    uint64_t go, n_copies;
    k_copy copies[K_MAX_COPIES];
    uint32_t ready, apart3[31]; /* of the commands with K_LATER, how many have their copies */
} k_state;

#endif
