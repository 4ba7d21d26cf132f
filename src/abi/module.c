/* Modules: compiled once, the compilation kept in the host's cache; what a guest must and must not have. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "abi/abi.h"

static sp_status take_error(wasmtime_error_t *error, sp_status code, const char *what, sp_error *err) {
    wasm_name_t text;
    wasmtime_error_message(error, &text);
    int length = text.size > 300 ? 300 : (int)text.size;
    for (int i = 0; i < length; i++) { /* one line */
        text.data[i] = text.data[i] == '\n' ? ' ' : text.data[i];
    }
    sp_fail(err, code, "%s: %.*s", what, length, text.data);
    wasm_name_delete(&text);
    wasmtime_error_delete(error);
    return code;
}

/* The cache file of a module, malloc'ed, or NULL where there is no cache. */
static char *cache_path(const sp_module *module) {
    char *folder = sp_host_cache_folder(module->host, "modules");
    char *path = folder ? malloc(strlen(folder) + 128) : NULL;
    if (path) {
        sprintf(path, "%s/%016llx%016llx-%s.cwasm", folder, (unsigned long long)module->hash[0], (unsigned long long)module->hash[1],
                WASMTIME_VERSION);
    }
    free(folder);
    return path;
}

static void save(const sp_module *module, const char *path) {
    wasm_byte_vec_t bytes;
    wasmtime_error_t *error = wasmtime_module_serialize(module->module, &bytes);
    if (error) {
        wasmtime_error_delete(error); /* a cache that can't be written costs time, nothing else */
        return;
    }
    char temporary[4200];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, bytes.data, bytes.size) == (ssize_t)bytes.size;
    if (fd >= 0) {
        ok = close(fd) == 0 && ok;
    }
    if (!ok || rename(temporary, path) != 0) {
        unlink(temporary);
    }
    wasm_byte_vec_delete(&bytes);
}

static sp_status compile(sp_module *module, const void *bytes, size_t size, sp_error *err) {
    char *path = cache_path(module);
    if (path && access(path, R_OK) == 0) {
        wasmtime_error_t *error = wasmtime_module_deserialize_file(module->host->engine, path, &module->module);
        if (!error) {
            free(path);
            return SP_OK;
        }
        wasmtime_error_delete(error); /* made by another build, or damaged: compile again */
        unlink(path);
    }
    wasmtime_error_t *error = wasmtime_module_new(module->host->engine, bytes, size, &module->module);
    if (!error && path) {
        save(module, path);
    }
    free(path);
    return error ? take_error(error, SP_ERR_FORMAT, "not a module that can be run", err) : SP_OK;
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

static sp_status check_exports(sp_module *module, sp_error *err) {
    bool memory = false, step = false, start = false;
    wasm_exporttype_vec_t exports;
    wasmtime_module_exports(module->module, &exports);
    for (size_t i = 0; i < exports.size; i++) {
        const wasm_name_t *name = wasm_exporttype_name(exports.data[i]);
        wasm_externkind_t kind = wasm_externtype_kind(wasm_exporttype_type(exports.data[i]));
        memory |= kind == WASM_EXTERN_MEMORY && name->size == 6 && memcmp(name->data, "memory", 6) == 0;
        step |= kind == WASM_EXTERN_FUNC && name->size == 7 && memcmp(name->data, "sp_step", 7) == 0;
        start |= kind == WASM_EXTERN_FUNC && name->size == 6 && memcmp(name->data, "_start", 6) == 0;
    }
    wasm_exporttype_vec_delete(&exports);
    if (!memory) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the module exports no memory: link it with --export-memory");
    }
    if (!step && !start) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "the module exports neither sp_step (an actor) nor _start (a command)");
    }
    module->kind = step ? SP_MODULE_ACTOR : SP_MODULE_COMMAND;
    return SP_OK;
}

sp_status sp_module_load(sp_host *host, const void *bytes, size_t size, sp_module **out, sp_error *err) {
    *out = NULL;
    static const char magic[4] = {0, 'a', 's', 'm'};
    if (size < 8 || memcmp(bytes, magic, 4) != 0) {
        return sp_fail(err, SP_ERR_FORMAT, "not a WebAssembly module: it does not begin with \\0asm");
    }
    sp_module *module = calloc(1, sizeof *module);
    if (!module) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    module->host = host;
    XXH128_hash_t hash = XXH3_128bits(bytes, size);
    module->hash[0] = hash.high64, module->hash[1] = hash.low64;
    sp_status status = compile(module, bytes, size, err);
    if (status == SP_OK) {
        status = check_imports(module, err);
    }
    if (status == SP_OK) {
        status = check_exports(module, err);
    }
    wasmtime_error_t *error = status == SP_OK ? wasmtime_linker_instantiate_pre(host->linker, module->module, &module->pre) : NULL;
    if (error) {
        status = take_error(error, SP_ERR_UNSUPPORTED, "the module imports something that this host does not have", err);
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
