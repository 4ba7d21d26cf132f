/* The third check, before each run: row ids, and where the slots were bound. */
#include "base/checked.h"
#include "base/error.h"
#include "program/program_impl.h"

static int64_t id_at(const void *data, uint16_t type, int64_t i) {
    return type == SP_TYPE_I64 ? ((const int64_t *)data)[i] : ((const int32_t *)data)[i];
}

sp_status sp_spec_check_index(const sp_spec *spec, const sp_spec_index *index, const void *data, sp_error *err) {
    const sp_spec_tensor *t = &spec->tensors[index->tensor];
    int64_t count = sp_elements(t), row = t->ne[0];
    for (int64_t i = 0; i < count; i++) {
        int64_t id = id_at(data, t->type, i);
        if (id < 0 || id >= index->bound) {
            return sp_fail(err, SP_ERR_RANGE, "%s[%lld] is %lld; it must be 0 to %lld", *t->name ? t->name : "a row id", (long long)i, (long long)id,
                           (long long)index->bound - 1);
        }
        for (int64_t j = i - i % row; index->distinct_rows && j < i; j++) {
            if (id_at(data, t->type, j) == id) {
                return sp_fail(err, SP_ERR_RANGE, "%s names %lld twice for one token", *t->name ? t->name : "a row of ids", (long long)id);
            }
        }
    }
    return SP_OK;
}

sp_status sp_spec_check_ranges(const sp_spec *spec, const sp_slot_range *ranges, sp_error *err) {
    uint64_t end;
    for (uint32_t i = 0; i < spec->n_slots; i++) {
        const sp_spec_slot *slot = &spec->slots[i];
        if (ranges[i].length < slot->size || !sp_add_u64(ranges[i].start, ranges[i].length, &end)) {
            return sp_fail(err, SP_ERR_RANGE, "slot %s is bound to %llu bytes; it needs %llu", slot->name, (unsigned long long)ranges[i].length,
                           (unsigned long long)slot->size);
        }
        if (ranges[i].start % SP_SLOT_ALIGNMENT) {
            return sp_fail(err, SP_ERR_RANGE, "slot %s is bound to an address that is no multiple of %d", slot->name, SP_SLOT_ALIGNMENT);
        }
        for (uint32_t j = 0; j < i; j++) {
            const bool written = (slot->flags | spec->slots[j].flags) & SP_SLOT_WRITE;
            const bool apart = end <= ranges[j].start || ranges[j].start + ranges[j].length <= ranges[i].start;
            if (written && !apart && ranges[i].length && ranges[j].length) {
                return sp_fail(err, SP_ERR_RANGE, "slots %s and %s overlap, and the program writes one of them", spec->slots[j].name, slot->name);
            }
        }
    }
    return SP_OK;
}
