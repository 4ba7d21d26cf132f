/*
 * Modules from bytes: loaded, which rewrites their exports, and what is accepted is spawned and stepped with all imports. Whatever the module is, the
 * host lives. The corpus has whole guests by binaryen's generator, which call every import (scripts/make-guests.py makes more).
 */
#include "fuzz.h"
#include "host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sp_error err = {0};
    sp_module *module = NULL;
    sp_status status = sp_module_load(fuzz_host_get()->host, data, size, &module, &err);
    CHECK((status == SP_OK) == (module != NULL) && (status == SP_OK || err.message[0]));
    sp_actor *actor = module && sp_module_get_kind(module) == SP_MODULE_ACTOR ? fuzz_spawn(module, false, &err) : NULL;
    if (actor) {
        fuzz_step(actor);
    }
    sp_actor_close(actor);
    sp_module_close(module);
    return 0;
}
