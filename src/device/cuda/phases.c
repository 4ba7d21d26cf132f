/*
 * What the phases of a schedule cost: block 0 notes when each began. Executables sum that over their runs, and say it when they are closed: alike
 * phases together, the first run left out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cuda/cuda_impl.h"

enum { LABEL = 200 };

sp_status sp_cuda_phases_open(cuda_device *d, sp_error *err) {
    void *marks = NULL;
    if (!getenv("SAMEPAGE_CUDA_PHASES")) {
        return SP_OK;
    }
    sp_status status = d->driver->ops->host_alloc(d->driver, K_MARKS * sizeof(uint64_t), &marks, err);
    d->marks = marks;
    d->queue->marks = (uint64_t)(uintptr_t)marks;
    return status;
}

void sp_cuda_phases_take(const cuda_device *d, cuda_phases **phases, uint32_t n) {
    if (!d->marks || n >= K_MARKS) {
        return;
    }
    if (!*phases) {
        *phases = calloc(1, sizeof **phases + n * sizeof(double));
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        (*phases)->ns[i] += (double)(d->marks[i + 1] - d->marks[i]);
    }
    (*phases)->n_runs++;
}

static const char *name_of(const k_op *op) {
    return op->op == K_OP_STREAM          ? "one column"
           : op->op == K_OP_TILES         ? "tiles"
           : op->op == K_OP_HALVES        ? "halves"
           : op->op == K_OP_ROPE          ? "rope"
           : op->op == K_OP_MASK_MAP      ? "map of a mask"
           : op->op == K_OP_TURNS         ? "turns"
           : op->op == K_OP_ATTEND        ? "attention by tiles"
           : op->op == K_OP_ATTEND_HALVES ? "attention by pieces"
           : op->op == K_OP_FLAT          ? sp_op_name(op->params[K_FLAT_OP])
           : op->op == K_OP_FLAT_ONE      ? sp_op_name(op->params[K_FLAT_OP])
                                          : sp_op_name(op->op);
}

static void label_phase(const k_phase *phase, const k_op *ops, char *label) {
    size_t n = 0;
    for (uint32_t o = phase->first_op; o < phase->first_op + phase->n_ops && n + 60 < LABEL; o++) {
        const k_op *op = &ops[o];
        n += (size_t)snprintf(label + n, LABEL - n, "%s%s %dx%dx%d over %d", n ? ", " : "", name_of(op), op->dst.ne[0], op->dst.ne[1], op->dst.ne[2],
                              op->src[0].ne[0]);
    }
}

static void tell_alike(const cuda_phases *p, char (*labels)[LABEL], uint32_t first, uint32_t n) {
    double ns = 0;
    uint32_t count = 0;
    for (uint32_t i = n; i-- > first;) {
        if (strcmp(labels[i], labels[first]) == 0) {
            ns += p->ns[i] / (double)p->n_runs;
            count++;
            labels[i][0] = i > first ? 0 : labels[i][0];
        }
    }
    fprintf(stderr, "%6" PRIu32 " x %9.2f us = %10.1f us  %s\n", count, ns / count * 1e-3, ns * 1e-3, labels[first]);
}

void sp_cuda_phases_tell(cuda_phases *p, const k_phase *list, uint32_t n, const k_op *ops) {
    char(*labels)[LABEL] = p && p->n_runs ? calloc(n, sizeof *labels) : NULL;
    double ns = 0;
    for (uint32_t i = 0; labels && i < n; i++) {
        label_phase(&list[i], ops, labels[i]);
        ns += p->ns[i] / (double)p->n_runs;
    }
    if (labels) {
        fprintf(stderr, "%" PRIu32 " phases, %" PRIu64 " runs of %.1f us\n", n, p->n_runs, ns * 1e-3);
    }
    for (uint32_t i = 0; labels && i < n; i++) {
        if (labels[i][0]) {
            tell_alike(p, labels, i, n);
        }
    }
    free(labels);
    free(p);
}
