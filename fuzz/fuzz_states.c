/*
 * The state of a frozen actor (globals, regions, programs, messages) from bytes: a real one of the script guest, in which the input breaks words, or
 * which it cuts, or replaces. What loads is stepped.
 */
#include <string.h>

#include "actor/actor.h"
#include "fuzz.h"
#include "host.h"

__asm__(".section .rodata\n.global script_wasm\nscript_wasm: .incbin \"" SCRIPT_WASM "\"\n.global script_wasm_end\nscript_wasm_end:\n.previous\n");
extern const uint8_t script_wasm[], script_wasm_end[];

/* An actor that has regions, bound programs, and a message that it has not read. */
static sp_log_blobs save_real(sp_module *module) {
    sp_error err = {0};
    sp_actor *actor = fuzz_spawn(module, false, &err);
    sp_log_blobs blobs;
    CHECK(actor);
    fuzz_step(actor);
    CHECK(sp_actor_send(actor, "\x17", 1, &err) == SP_OK && sp_state_save(actor, &blobs, &err) == SP_OK);
    sp_actor_close(actor);
    return blobs;
}

/* Four bytes of the input: where, in which blob, what with. */
static void edit(sp_log_blobs *blobs, const uint8_t *four) {
    static const uint32_t values[] = {0, 1, 4, 64, 4096, 65536, 0xffff, 1u << 31, UINT32_MAX, UINT32_MAX - 4095, 0x7fffffff, 1u << 18};
    uint8_t *bytes = four[3] & 1 ? blobs->side : blobs->meta;
    const uint64_t size = four[3] & 1 ? blobs->side_size : blobs->meta_size, at = ((uint64_t)four[0] | (uint64_t)four[1] << 8) * 4;
    if (at + 4 <= size) {
        uint32_t now;
        memcpy(&now, bytes + at, 4);
        now = four[2] < sizeof values / sizeof values[0] ? values[four[2]] : now + four[2] - 128;
        memcpy(bytes + at, &now, 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sp_module *module;
    static sp_log_blobs real;
    sp_error err = {0};
    if (!module) {
        CHECK(sp_module_load(fuzz_host_get()->host, script_wasm, (size_t)(script_wasm_end - script_wasm), &module, &err) == SP_OK);
        real = save_real(module);
    }
    if (size < 2) {
        return 0;
    }
    sp_log_blobs blobs = {.meta_size = real.meta_size, .side_size = real.side_size};
    if (data[0] > 200) {
        blobs.meta_size = blobs.meta_size * data[1] / 256; /* cut */
    } else if (data[0] > 190) {
        blobs.meta_size = size - 2; /* replaced */
    }
    blobs.meta = malloc(blobs.meta_size + 1);
    blobs.side = malloc(blobs.side_size + 1);
    CHECK(blobs.meta && blobs.side);
    memcpy(blobs.meta, blobs.meta_size == size - 2 ? data + 2 : real.meta, blobs.meta_size);
    memcpy(blobs.side, real.side, blobs.side_size);
    for (size_t at = 2; at + 4 <= size; at += 4) {
        edit(&blobs, data + at);
    }
    sp_actor *actor = fuzz_spawn(module, data[0] & 1, &err);
    CHECK(actor);
    const uint64_t need = 1 << 20;
    sp_status status = sp_state_grow(actor, sp_memory_size(actor->memory) < need ? need : sp_memory_size(actor->memory), &err);
    status = status == SP_OK ? sp_state_load(actor, &blobs, &err) : status;
    if (status == SP_OK) {
        fuzz_step(actor);
    } else {
        CHECK(err.message[0]);
    }
    sp_actor_close(actor);
    sp_state_free(&blobs);
    return 0;
}
