/* Modules: compiled once; what a guest must and must not have. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "abi/module_cache.h"
#include "abi/rewrite.h"

sp_status sp_abi_take_error(wasmtime_error_t *error, sp_status code, const char *what, sp_error *err) {
    if (!error) {
        return SP_OK;
    }
    wasm_name_t text;
    wasmtime_error_message(error, &text);
    int length = text.size > 300 ? 300 : (int)text.size;
    sp_fail(err, code, "%s: %.*s", what, length, text.data);
    wasm_name_delete(&text);
    wasmtime_error_delete(error);
    return code;
}

static sp_status compile(sp_module *module, const void *bytes, size_t size, sp_error *err) {
    if (sp_module_cache_load(module)) {
        return SP_OK;
    }
    sp_status status = sp_abi_take_error(wasmtime_module_new(module->host->engine, bytes, size, &module->module), SP_ERR_FORMAT,
                                         "not a module that can be run", err);
    if (status == SP_OK) {
        sp_module_cache_save(module);
    }
    return status;
}

static sp_status check_imports(const sp_module *module, sp_error *err) {
    wasm_importtype_vec_t imports;
    wasmtime_module_imports(module->module, &imports);
    sp_status status = SP_OK;
    for (size_t i = 0; status == SP_OK && i < imports.size; i++) {
        const wasm_name_t *from = wasm_importtype_module(imports.data[i]), *name = wasm_importtype_name(imports.data[i]);
        wasm_externkind_t kind = wasm_externtype_kind(wasm_importtype_type(imports.data[i]));
        if (kind == WASM_EXTERN_MEMORY) {
            status = sp_fail(err, SP_ERR_UNSUPPORTED,
                             "the module imports its memory (%.*s.%.*s): it must define and export it (link without --import-memory)",
                             (int)from->size, from->data, (int)name->size, name->data);
        } else if (kind != WASM_EXTERN_FUNC) {
            status = sp_fail(err, SP_ERR_UNSUPPORTED, "the module imports %.*s.%.*s, which is no function: only functions can be imported",
                             (int)from->size, from->data, (int)name->size, name->data);
        }
    }
    wasm_importtype_vec_delete(&imports);
    return status;
}

static bool is_named(const wasm_name_t *name, const char *text) {
    return name->size == strlen(text) && memcmp(name->data, text, name->size) == 0;
}

/* A function without parameters that returns an i32, or nothing. */
static bool has_type(const wasm_externtype_t *type, bool returns_i32) {
    const wasm_functype_t *function = wasm_externtype_as_functype_const(type);
    const wasm_valtype_vec_t *results = function ? wasm_functype_results(function) : NULL;
    return function && wasm_functype_params(function)->size == 0 && results->size == (returns_i32 ? 1 : 0) &&
           (!returns_i32 || wasm_valtype_kind(results->data[0]) == WASM_I32);
}

/* The functions that the host calls. */
static const struct entry_point {
    const char *name;
    bool returns_i32;
} entry_points[] = {{"sp_step", true}, {"_start", false}, {"_initialize", false}};
enum { ENTRY_STEP, ENTRY_START, N_ENTRY_POINTS = sizeof entry_points / sizeof entry_points[0] };

static sp_status check_exports(sp_module *module, sp_error *err) {
    bool memory = false, found[N_ENTRY_POINTS] = {false};
    sp_status status = SP_OK;
    wasm_exporttype_vec_t exports;
    wasmtime_module_exports(module->module, &exports);
    for (size_t i = 0; i < exports.size; i++) {
        const wasm_name_t *name = wasm_exporttype_name(exports.data[i]);
        const wasm_externtype_t *type = wasm_exporttype_type(exports.data[i]);
        if (is_named(name, "memory") && wasm_externtype_kind(type) == WASM_EXTERN_MEMORY) {
            memory = true;
            module->memory_bytes = wasmtime_memorytype_minimum(wasm_externtype_as_memorytype_const(type)) << 16;
        }
        for (int e = 0; e < N_ENTRY_POINTS; e++) {
            if (is_named(name, entry_points[e].name)) {
                found[e] = has_type(type, entry_points[e].returns_i32);
                status = found[e] ? status
                                  : sp_fail(err, SP_ERR_UNSUPPORTED, "the module's export %s must be a function without parameters that returns %s",
                                            entry_points[e].name, entry_points[e].returns_i32 ? "an i32" : "nothing");
            }
        }
    }
    wasm_exporttype_vec_delete(&exports);
    if (status == SP_OK && !memory) {
        status = sp_fail(err, SP_ERR_UNSUPPORTED, "the module exports no memory: link it with --export-memory");
    }
    if (status == SP_OK && !found[ENTRY_STEP] && !found[ENTRY_START]) {
        status = sp_fail(err, SP_ERR_UNSUPPORTED, "the module exports neither sp_step (an actor) nor _start (a command)");
    }
    module->kind = found[ENTRY_STEP] ? SP_MODULE_ACTOR : SP_MODULE_COMMAND;
    return status;
}

static sp_status rewrite_and_compile(sp_module *module, const void *bytes, size_t size, sp_error *err) {
    sp_rewritten changed;
    sp_status status = sp_wasm_rewrite(bytes, size, &changed, err);
    if (status) {
        return status;
    }
    const void *code = changed.bytes ? changed.bytes : bytes;
    size_t code_size = changed.bytes ? changed.size : size;
    module->freezable = changed.freezable;
    module->n_globals = changed.freezable ? changed.n_globals : 0;
    memcpy(module->not_freezable, changed.reason, sizeof changed.reason);
    /* The cache is keyed by what is compiled, not by what was given. */
    crypto_generichash(module->hash, sizeof module->hash, code, code_size, NULL, 0);
    status = compile(module, code, code_size, err);
    free(changed.bytes);
    return status;
}

sp_status sp_module_load(sp_host *host, const void *bytes, size_t size, sp_module **out, sp_error *err) {
    *out = NULL;
    static const char magic[4] = {0, 'a', 's', 'm'};
    if (size < 8 || memcmp(bytes, magic, 4) != 0) {
        return sp_fail(err, SP_ERR_FORMAT, "not a WebAssembly module: it does not begin with \\0asm");
    }
    if (size > INT32_MAX) { /* what is rewritten grows a little, and counts in 32 bits */
        return sp_fail(err, SP_ERR_LIMIT, "a module of %zu bytes; at most 2 GiB are read", size);
    }
    sp_module *module = sodium_init() < 0 ? NULL : calloc(1, sizeof *module);
    if (!module) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    module->host = host;
    crypto_generichash(module->id, sizeof module->id, bytes, size, NULL, 0);
    sodium_bin2hex(module->id_text, sizeof module->id_text, module->id, sizeof module->id);
    sp_status status = rewrite_and_compile(module, bytes, size, err);
    status = status ? status : sp_wasm_check_types(bytes, size, err);
    if (status == SP_OK) {
        status = check_imports(module, err);
    }
    if (status == SP_OK) {
        status = check_exports(module, err);
    }
    wasmtime_linker_t *linker = module->kind == SP_MODULE_ACTOR ? host->actor_linker : host->linker;
    if (status == SP_OK) {
        status = sp_abi_take_error(wasmtime_linker_instantiate_pre(linker, module->module, &module->pre), SP_ERR_UNSUPPORTED,
                                   "the module imports something that this host does not have", err);
    }
    if (status != SP_OK) {
        sp_module_close(module);
        return status;
    }
    *out = module;
    return SP_OK;
}

void sp_module_close(sp_module *module) {
    if (module) {
        if (module->pre) {
            wasmtime_instance_pre_delete(module->pre);
        }
        if (module->module) {
            wasmtime_module_delete(module->module);
        }
        free(module);
    }
}

sp_module_kind sp_module_get_kind(const sp_module *module) {
    return module->kind;
}

const char *sp_module_hash(const sp_module *module) {
    return module->id_text;
}

sp_status sp_module_check_freeze(const sp_module *module, sp_error *err) {
    if (module->kind == SP_MODULE_COMMAND) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the module can't be frozen: it is a command (_start), which is never at rest");
    }
    return module->freezable ? SP_OK : sp_fail(err, SP_ERR_UNSUPPORTED, "the module can't be frozen: %s", module->not_freezable);
}
