/*
 * Prepared programs. Preparing lowers a specialised program to a ggml graph whose windows are tensors inside the regions; executing copies and checks
 * the row ids and computes. Nothing is built or allocated when an executable runs again.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/error.h"
#include "device/device_impl.h"

/* Row ids: where they lie in the guest's pages, and the private tensor that the device reads. */
typedef struct id_copy {
    const uint8_t *from;
    struct ggml_tensor *to;
    uint64_t size;
    uint8_t *checked; /* the copy that is checked and handed over */
} id_copy;

typedef struct id_check {
    uint32_t copy;
    sp_spec_index rule;
    sp_spec_tensor shape;
} id_check;

struct sp_executable {
    const sp_device_ops *ops;
    sp_workspace *workspace;
    struct ggml_context *context;
    void *context_bytes; /* what the context allocates from */
    struct ggml_cgraph *graph;
    ggml_backend_buffer_t ids; /* the private tensors of row ids */
    id_copy *copies;
    id_check *checks;
    uint32_t n_copies, n_checks;
    struct ggml_tensor **temporaries; /* those that the allocator placed */
    uint32_t n_temporaries;
    uint64_t generation;
    uint64_t scratch; /* what ggml's CPU code takes for itself while it computes */
    uint64_t bytes;   /* what it holds, temporaries left out */
};

/* What lowering needs by the way. */
typedef struct lowering {
    sp_executable *x;
    const sp_spec *spec;
    const sp_slot_binding *bindings;
    sp_device_weights *const *weights;
    struct ggml_tensor **tensors; /* by the program's numbering */
    struct ggml_tensor **packed;  /* weights in the layout for products; NULL where not wanted */
    uint8_t *uses;                /* by tensor: the ways in which operations use it */
} lowering;

sp_status sp_ggml_workspace_open(sp_device *device, uint64_t limit_bytes, sp_workspace **out, sp_error *err) {
    *out = NULL;
    sp_workspace *workspace = calloc(1, sizeof *workspace);
    if (workspace) {
        workspace->allocator = ggml_gallocr_new(ggml_backend_dev_buffer_type(device->dev));
    }
    if (!workspace || !workspace->allocator) {
        free(workspace);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    workspace->ops = device->ops;
    workspace->device = device;
    workspace->limit = limit_bytes;
    *out = workspace;
    return SP_OK;
}

void sp_ggml_workspace_close(sp_workspace *workspace) {
    if (workspace) {
        ggml_gallocr_free(workspace->allocator);
        free(workspace);
    }
}

void sp_ggml_workspace_limit_time(sp_workspace *workspace, uint64_t milliseconds) {
    workspace->run_ms = milliseconds;
}

uint64_t sp_ggml_workspace_bytes(const sp_workspace *workspace) {
    return workspace->bytes;
}

static sp_status check_bindings(const sp_spec *spec, const sp_slot_binding *bindings, sp_error *err) {
    sp_slot_range *ranges = calloc(spec->n_slots ? spec->n_slots : 1, sizeof *ranges);
    if (!ranges) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < spec->n_slots; i++) {
        const sp_slot_binding *b = &bindings[i];
        if (!b->memory) {
            status = sp_fail(err, SP_ERR_STATE, "slot %s is not bound to a region", spec->slots[i].name);
        } else if (!sp_range_within(b->offset, b->length, b->memory->length)) {
            status = sp_fail(err, SP_ERR_RANGE, "slot %s is bound to bytes outside of its region", spec->slots[i].name);
        } else if (b->length < spec->slots[i].size) {
            status = sp_fail(err, SP_ERR_RANGE, "slot %s needs %llu bytes; %llu are bound", spec->slots[i].name,
                             (unsigned long long)spec->slots[i].size, (unsigned long long)b->length);
        } else {
            ranges[i] = (sp_slot_range){.start = (uint64_t)(uintptr_t)b->memory->base + b->offset, .length = b->length};
        }
    }
    if (status == SP_OK) {
        status = sp_spec_check_ranges(spec, ranges, err);
    }
    free(ranges);
    return status;
}

/* Puts a tensor at a window's place in its region. */
static sp_status place(const lowering *l, const sp_spec_tensor *window, struct ggml_tensor *tensor, sp_error *err) {
    const sp_slot_binding *b = &l->bindings[window->slot];
    uint64_t offset = b->offset + window->offset, alignment = ggml_backend_buffer_get_alignment(b->memory->buffer);
    if (offset % alignment) {
        return sp_fail(err, SP_ERR_ARGUMENT, "slot %s: the window at %llu bytes of the region is not a multiple of %s's %llu",
                       l->spec->slots[window->slot].name, (unsigned long long)offset, l->x->workspace->device->info.name,
                       (unsigned long long)alignment);
    }
    uint64_t needed = ggml_backend_buffer_get_alloc_size(b->memory->buffer, tensor);
    if (needed > b->memory->length - offset) {
        return sp_fail(err, SP_ERR_RANGE, "slot %s: the device wants %llu bytes at %llu of a region of %llu", l->spec->slots[window->slot].name,
                       (unsigned long long)needed, (unsigned long long)offset, (unsigned long long)b->memory->length);
    }
    ggml_backend_tensor_alloc(b->memory->buffer, tensor, (uint8_t *)ggml_backend_buffer_get_base(b->memory->buffer) + offset);
    return SP_OK;
}

static struct ggml_tensor *new_window(const lowering *l, const sp_spec_tensor *t) {
    struct ggml_tensor *tensor = ggml_new_tensor_4d(l->x->context, (enum ggml_type)t->type, t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
    for (int i = 0; i < 4; i++) {
        tensor->nb[i] = t->nb[i];
    }
    return tensor;
}

/* All private tensors of row ids in one buffer. */
static sp_status place_ids(lowering *l, sp_error *err) {
    sp_executable *x = l->x;
    ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(x->workspace->device->dev);
    uint64_t alignment = ggml_backend_buft_get_alignment(type), total = 0;
    for (uint32_t i = 0; i < x->n_copies; i++) {
        total += (ggml_backend_buft_get_alloc_size(type, x->copies[i].to) + alignment - 1) / alignment * alignment;
    }
    if (!total) {
        return SP_OK;
    }
    char why[200] = "";
    x->ids = sp_shim_alloc(type, total, why, sizeof why);
    x->bytes += total;
    if (!x->ids) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no device memory for row ids: %s", why);
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < x->n_copies; i++) {
        ggml_backend_tensor_alloc(x->ids, x->copies[i].to, (uint8_t *)ggml_backend_buffer_get_base(x->ids) + at);
        at += (ggml_backend_buft_get_alloc_size(type, x->copies[i].to) + alignment - 1) / alignment * alignment;
    }
    return SP_OK;
}

static sp_status add_id_copy(lowering *l, uint32_t index, sp_error *err) {
    sp_executable *x = l->x;
    const sp_spec_tensor *t = &l->spec->tensors[index];
    const sp_slot_binding *b = &l->bindings[t->slot];
    id_copy *copy = &x->copies[x->n_copies];
    copy->to = l->tensors[index];
    copy->size = ggml_nbytes(copy->to);
    copy->from = b->memory->base + b->offset + t->offset;
    x->bytes += copy->size;
    if (x->bytes > x->workspace->limit) {
        return sp_fail(err, SP_ERR_LIMIT, "the program's row ids are more than the limit on temporaries of %llu bytes",
                       (unsigned long long)x->workspace->limit);
    }
    copy->checked = malloc(copy->size);
    if (!copy->checked) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < l->spec->n_indices; i++) {
        if (l->spec->indices[i].tensor == index) {
            x->checks[x->n_checks++] = (id_check){.copy = x->n_copies, .rule = l->spec->indices[i], .shape = *t};
            x->checks[x->n_checks - 1].shape.name = ""; /* names belong to the program, which may go first */
        }
    }
    x->n_copies++;
    return SP_OK;
}

enum { USED_BY_PRODUCT = 1, USED_OTHERWISE = 2 };

static void find_uses(lowering *l) {
    for (uint32_t i = 0; i < l->spec->n_tensors; i++) {
        const sp_spec_tensor *t = &l->spec->tensors[i];
        for (int s = 0; s < t->n_src; s++) {
            if (t->src[s] != SP_PROGRAM_NONE) {
                l->uses[t->src[s]] |= sp_lower_takes_packed(l->spec, t, s) ? USED_BY_PRODUCT : USED_OTHERWISE;
            }
        }
    }
}

static sp_status lower_weight(lowering *l, uint32_t index, sp_error *err) {
    const sp_spec_tensor *t = &l->spec->tensors[index];
    sp_device_weights *weights = l->weights[t->slot];
    sp_status status = SP_OK;
    if (l->uses[index] & USED_BY_PRODUCT) {
        status = sp_device_weights_get(weights, t->weight, true, &l->packed[index], err);
    }
    if (status == SP_OK && l->uses[index] != USED_BY_PRODUCT) {
        status = sp_device_weights_get(weights, t->weight, false, &l->tensors[index], err);
    }
    return status;
}

static sp_status lower_operation(lowering *l, uint32_t index, sp_error *err) {
    const sp_spec_tensor *t = &l->spec->tensors[index];
    struct ggml_tensor *sources[SP_PROGRAM_MAX_SRC] = {0};
    for (int s = 0; s < t->n_src; s++) {
        uint32_t from = t->src[s];
        if (from != SP_PROGRAM_NONE) {
            sources[s] = sp_lower_takes_packed(l->spec, t, s) && l->packed[from] ? l->packed[from] : l->tensors[from];
        }
    }
    struct ggml_tensor *tensor = l->x->workspace->device->pool ? sp_lower_rows_alone(l->x->context, l->spec, t, sources) : NULL;
    tensor = tensor ? tensor : sp_lower_op(l->x->context, t, sources);
    if (!tensor || memcmp(tensor->ne, t->ne, sizeof t->ne)) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "tensor %u: %s is not lowered as it was verified", index, sp_op_name(t->op));
    }
    sp_lower_keep_sources(t, sources);
    l->tensors[index] = tensor;
    return t->dst == SP_PROGRAM_NONE ? SP_OK : place(l, &l->spec->tensors[t->dst], tensor, err);
}

static sp_status lower_tensor(lowering *l, uint32_t index, sp_error *err) {
    const sp_spec_tensor *t = &l->spec->tensors[index];
    if (t->kind == SP_TENSOR_WEIGHT) {
        return lower_weight(l, index, err);
    }
    if (t->kind == SP_TENSOR_OP) {
        return lower_operation(l, index, err);
    }
    l->tensors[index] = new_window(l, t);
    return t->index ? add_id_copy(l, index, err) : place(l, t, l->tensors[index], err);
}

/* Row ids need their buffer before views of them are made, so windows come first; they have no sources. */
static sp_status lower_all(lowering *l, sp_error *err) {
    sp_status status = SP_OK;
    for (uint32_t i = 0; status == SP_OK && i < l->spec->n_tensors; i++) {
        status = l->spec->tensors[i].kind == SP_TENSOR_OP ? SP_OK : lower_tensor(l, i, err);
    }
    if (status == SP_OK) {
        status = place_ids(l, err);
    }
    for (uint32_t i = 0; status == SP_OK && i < l->spec->n_tensors; i++) {
        if (l->spec->tensors[i].kind == SP_TENSOR_OP) {
            status = lower_tensor(l, i, err);
            if (status == SP_OK) {
                ggml_build_forward_expand(l->x->graph, l->tensors[i]);
            }
        }
    }
    return status;
}

static sp_status check_supported(const sp_executable *x, sp_error *err) {
    sp_device *device = x->workspace->device;
    const size_t alignment = ggml_backend_buft_get_alignment(ggml_backend_dev_buffer_type(device->dev));
    for (int i = 0; i < ggml_graph_n_nodes(x->graph); i++) {
        struct ggml_tensor *node = ggml_graph_node(x->graph, i);
        if (!ggml_backend_dev_supports_op(device->dev, node)) {
            return sp_fail(err, SP_ERR_UNSUPPORTED, "%s can't do %s of %s", device->info.name, ggml_op_desc(node), ggml_type_name(node->type));
        }
        const char *lacks = device->lacks ? device->lacks(node, alignment) : NULL;
        if (lacks) {
            return sp_fail(err, SP_ERR_UNSUPPORTED, "%s can't do this %s: %s", device->info.name, ggml_op_desc(node), lacks);
        }
    }
    return SP_OK;
}

/* Lets the allocator place the temporaries; again whenever its buffer has moved. */
static sp_status allocate(sp_executable *x, sp_error *err) {
    sp_workspace *workspace = x->workspace;
    for (uint32_t i = 0; i < x->n_temporaries; i++) {
        x->temporaries[i]->data = NULL;
        x->temporaries[i]->buffer = NULL;
    }
    char why[200] = "";
    if (!sp_shim_alloc_graph(workspace->allocator, x->graph, why, sizeof why)) {
        workspace->bytes = 0; /* the old buffer is gone as well: what was prepared in it must be placed again */
        workspace->generation++;
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory for a program's temporaries on %s: %s", workspace->device->info.name, why);
    }
    uint64_t bytes = ggml_gallocr_get_buffer_size(workspace->allocator, 0);
    if (bytes != workspace->bytes) {
        workspace->bytes = bytes;
        workspace->generation++;
    }
    x->generation = workspace->generation;
    uint64_t all;
    return sp_add_u64(bytes, x->scratch, &all) && all <= workspace->limit
               ? SP_OK
               : sp_fail(err, SP_ERR_LIMIT, "the program needs %llu bytes of temporaries and %llu of work space; the limit is %llu",
                         (unsigned long long)bytes, (unsigned long long)x->scratch, (unsigned long long)workspace->limit);
}

/* Remembers what the allocator will place: every node that has no place yet, views among them. */
static sp_status collect_temporaries(sp_executable *x, sp_error *err) {
    int n = ggml_graph_n_nodes(x->graph);
    x->temporaries = calloc((size_t)n + 1, sizeof(struct ggml_tensor *));
    if (!x->temporaries) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    for (int i = 0; i < n; i++) {
        struct ggml_tensor *node = ggml_graph_node(x->graph, i);
        if (!node->data) {
            x->temporaries[x->n_temporaries++] = node;
        }
    }
    return SP_OK;
}

static sp_status prepare(lowering *l, sp_error *err) {
    sp_executable *x = l->x;
    uint32_t n = l->spec->n_tensors;
    uint64_t more;
    sp_status status = sp_rows_alone_nodes(l->spec, &more, err);
    if (status != SP_OK) {
        return status;
    }
    size_t nodes = (size_t)n * 2 + (size_t)more + 16, size = ggml_tensor_overhead() * nodes + ggml_graph_overhead_custom(nodes, false);
    x->context_bytes = malloc(size); /* ggml aborts where it can't have memory */
    x->context = x->context_bytes ? ggml_init((struct ggml_init_params){.mem_size = size, .mem_buffer = x->context_bytes, .no_alloc = true}) : NULL;
    x->bytes = size + (uint64_t)n * sizeof *x->copies + nodes * sizeof *x->temporaries + l->spec->n_indices * sizeof *x->checks;
    x->copies = calloc(n, sizeof *x->copies);
    x->checks = calloc(l->spec->n_indices ? l->spec->n_indices : 1, sizeof *x->checks);
    l->tensors = calloc((size_t)n * 2, sizeof *l->tensors);
    l->uses = calloc(n, sizeof *l->uses);
    if (!x->context || !x->copies || !x->checks || !l->tensors || !l->uses) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    l->packed = l->tensors + n;
    find_uses(l);
    x->graph = ggml_new_graph_custom(x->context, nodes, false);
    status = lower_all(l, err);
    if (status == SP_OK) {
        status = check_supported(x, err);
    }
    if (status == SP_OK) {
        status = collect_temporaries(x, err);
    }
    struct ggml_threadpool *pool = x->workspace->device->pool;
    if (status == SP_OK && pool) {
        x->scratch = ggml_graph_plan(x->graph, x->workspace->device->threads, pool).work_size;
    }
    return status == SP_OK ? allocate(x, err) : status;
}

sp_status sp_ggml_prepare(sp_workspace *workspace, const sp_spec *spec, const sp_slot_binding *bindings, sp_device_weights *const *weights,
                          sp_executable **out, sp_error *err) {
    *out = NULL;
    sp_status status = check_bindings(spec, bindings, err);
    if (status != SP_OK) {
        return status;
    }
    sp_executable *x = calloc(1, sizeof *x);
    if (!x) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    x->ops = workspace->ops;
    x->workspace = workspace;
    lowering l = {.x = x, .spec = spec, .bindings = bindings, .weights = weights};
    status = prepare(&l, err);
    free(l.tensors);
    free(l.uses);
    if (status != SP_OK) {
        sp_ggml_executable_close(x);
        return status;
    }
    for (uint32_t i = 0, last = SP_PROGRAM_NONE; i < spec->n_tensors; i++) {
        if (spec->tensors[i].kind == SP_TENSOR_WEIGHT && spec->tensors[i].slot != last) {
            last = spec->tensors[i].slot;
            sp_device_weights_keep(weights[last]);
        }
    }
    *out = x;
    return SP_OK;
}

static sp_status take_ids(sp_executable *x, sp_error *err) {
    for (uint32_t i = 0; i < x->n_copies; i++) {
        memcpy(x->copies[i].checked, x->copies[i].from, x->copies[i].size);
    }
    for (uint32_t i = 0; i < x->n_checks; i++) {
        sp_spec one = {.n_tensors = 1, .tensors = &x->checks[i].shape};
        sp_spec_index rule = x->checks[i].rule;
        rule.tensor = 0;
        sp_status status = sp_spec_check_index(&one, &rule, x->copies[x->checks[i].copy].checked, err);
        if (status != SP_OK) {
            return status;
        }
    }
    char why[200] = "";
    for (uint32_t i = 0; i < x->n_copies; i++) {
        if (!sp_shim_set(x->copies[i].to, x->copies[i].checked, 0, x->copies[i].size, why, sizeof why)) {
            return sp_fail(err, SP_ERR_DEVICE, "can't give %s row ids: %s", x->workspace->device->info.name, why);
        }
    }
    return SP_OK;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Asked between two operations. */
static bool is_late(void *workspace) {
    return now_ns() > ((const sp_workspace *)workspace)->deadline;
}

/* A new backend in place of the device's, whose last run left it in a state that no other may begin in. */
static bool renew(sp_device *device, char *why, size_t capacity) {
    ggml_backend_t backend = sp_shim_backend_init(device->dev, why, capacity);
    if (backend) {
        ggml_backend_free(device->backend);
        device->backend = backend;
        device->stale = false;
    }
    return backend != NULL;
}

/*
 * Some of ggml's kernels (its products of q4_0 by 8 rows) end with the upper halves of vector registers in use, since they take a vector as an
 * argument. Intel's processors then run what knows the lower halves alone many times slower, and so does the guest.
 */
static void clear_upper_halves(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx")) {
        __asm__ volatile("vzeroupper");
    }
#endif
}

/*
 * Computes, on a backend that is whole. One that threw or asserted is not. Nor is any on Mesa's lavapipe, which touches every binding of a descriptor
 * set, those that the shader lacks too (22.3.6): ggml-vulkan keeps its sets from graph to graph and writes what the shader has, so that the others
 * name buffers that were freed meanwhile, and the heap is corrupted.
 */
static bool compute(sp_device *device, struct ggml_cgraph *graph, char *why, size_t capacity) {
    const bool done = (!device->stale || renew(device, why, capacity)) && sp_shim_compute(device->backend, graph, why, capacity);
    clear_upper_halves();
    device->stale = !device->pool && (!done || device->is_lavapipe);
    return done;
}

sp_status sp_ggml_execute(sp_executable *x, sp_meanwhile meanwhile, void *user, sp_error *err) {
    sp_status status = x->generation == x->workspace->generation ? SP_OK : allocate(x, err);
    if (status == SP_OK) {
        status = take_ids(x, err);
    }
    if (status != SP_OK) {
        return status;
    }
    if (meanwhile) {
        meanwhile(user);
    }
    sp_device *device = x->workspace->device;
    char why[300] = "";
    sp_turns_enter(&device->turns, &x->workspace->turn);
    uint64_t start = now_ns(), limit = x->workspace->run_ms < UINT64_C(1) << 40 ? x->workspace->run_ms * 1000000 : 0;
    x->workspace->deadline = start + limit;
    if (device->pool) {
        ggml_backend_cpu_set_abort_callback(device->backend, limit ? is_late : NULL, x->workspace);
    }
    bool done = compute(device, x->graph, why, sizeof why);
    uint64_t took = now_ns() - start;
    sp_turns_leave(&device->turns, &x->workspace->turn, took);
    if (limit && took > limit) {
        return sp_fail(err, SP_ERR_LIMIT, "the run took %llu ms on %s; the limit is %llu", (unsigned long long)took / 1000000, device->info.name,
                       (unsigned long long)x->workspace->run_ms);
    }
    return done ? SP_OK : sp_fail(err, SP_ERR_DEVICE, "%s failed: %s", device->info.name, why);
}

uint64_t sp_ggml_executable_bytes(const sp_executable *x) {
    return x->bytes;
}

void sp_ggml_executable_close(sp_executable *x) {
    if (!x) {
        return;
    }
    for (uint32_t i = 0; x->copies && i < x->n_copies; i++) {
        free(x->copies[i].checked);
    }
    ggml_backend_buffer_free(x->ids);
    ggml_free(x->context);
    free(x->context_bytes);
    free(x->copies);
    free(x->checks);
    free(x->temporaries);
    free(x);
}
