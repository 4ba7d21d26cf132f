/*
 * Arguments of every import: the input is a script for a guest that calls them (guests/script.c), on `cpu` or `discrete` by its first bit. Whatever
 * it does, the host lives, the guest's end has a reason, and the next guest can be spawned.
 */
#include "fuzz.h"
#include "host.h"

__asm__(".section .rodata\n.global script_wasm\nscript_wasm: .incbin \"" SCRIPT_WASM "\"\n.global script_wasm_end\nscript_wasm_end:\n.previous\n");
extern const uint8_t script_wasm[], script_wasm_end[];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sp_module *module;
    sp_error err = {0};
    const fuzz_host *host = fuzz_host_get();
    if (!module) {
        CHECK(sp_module_load(host->host, script_wasm, (size_t)(script_wasm_end - script_wasm), &module, &err) == SP_OK);
    }
    if (size == 0) {
        return 0;
    }
    sp_actor *actor = fuzz_spawn(module, data[0] & 1, &err);
    CHECK(actor);
    CHECK(sp_actor_send(actor, data + 1, size - 1, &err) == SP_OK);
    fuzz_step(actor);
    sp_actor_close(actor);
    return 0;
}
