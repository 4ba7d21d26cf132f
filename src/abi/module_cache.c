/* See module_cache.h. A file is the BLAKE2b of what follows, and what Wasmtime's serialisation gave. */
#include "abi/module_cache.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory/os.h"

enum { DIGEST = 32 };

/* Malloc'ed, or NULL where there is no cache. */
static char *cache_path(const sp_module *module) {
    char *folder = sp_host_cache_folder(module->host, "modules");
    char *path = folder ? malloc(strlen(folder) + 128) : NULL;
    if (path) {
        char hash[2 * sizeof module->hash + 1];
        sodium_bin2hex(hash, sizeof hash, module->hash, sizeof module->hash);
        sprintf(path, "%s/%s-%s.cwasm", folder, hash, WASMTIME_VERSION);
    }
    free(folder);
    return path;
}

/* The whole file, malloc'ed, if it is a plain file that only the user can write and its digest is right. */
static uint8_t *read_checked(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat info;
    if (fd < 0) {
        return NULL;
    }
    bool trusted = fstat(fd, &info) == 0 && sp_host_is_ours_alone(&info, S_IFREG) && info.st_size > DIGEST;
    *size = trusted ? (size_t)info.st_size : 0;
    uint8_t *bytes = trusted ? malloc(*size) : NULL;
    bool whole = bytes && sp_os_read_at(fd, bytes, *size, 0) == (int64_t)*size;
    close(fd);
    uint8_t digest[DIGEST];
    if (whole) {
        crypto_generichash(digest, DIGEST, bytes + DIGEST, *size - DIGEST, NULL, 0);
    }
    if (!whole || memcmp(digest, bytes, DIGEST) != 0) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

static bool succeeded(wasmtime_error_t *error) {
    if (error) {
        wasmtime_error_delete(error);
    }
    return !error;
}

bool sp_module_cache_load(sp_module *module) {
    char *path = cache_path(module);
    size_t size = 0;
    uint8_t *bytes = path ? read_checked(path, &size) : NULL;
    free(path);
    if (!bytes) {
        return false;
    }
    /* One that was made with other settings will be compiled and replaced. */
    bool loaded = succeeded(wasmtime_module_deserialize(module->host->engine, bytes + DIGEST, size - DIGEST, &module->module));
    free(bytes);
    return loaded;
}

static bool write_file(int fd, uint8_t digest[DIGEST], wasm_byte_vec_t *bytes) {
    bool ok = sp_os_write_at(fd, digest, DIGEST, 0) && sp_os_write_at(fd, bytes->data, bytes->size, DIGEST);
    return close(fd) == 0 && ok;
}

void sp_module_cache_save(const sp_module *module) {
    char *path = cache_path(module), *temporary = path ? malloc(strlen(path) + 8) : NULL;
    wasm_byte_vec_t bytes = {0};
    if (temporary && succeeded(wasmtime_module_serialize(module->module, &bytes))) {
        uint8_t digest[DIGEST];
        crypto_generichash(digest, DIGEST, (const uint8_t *)bytes.data, bytes.size, NULL, 0);
        sprintf(temporary, "%s.XXXXXX", path);
        int fd = mkostemp(temporary, O_CLOEXEC); /* 0600, and one for each writer */
        if (fd >= 0 && (!write_file(fd, digest, &bytes) || rename(temporary, path) != 0)) {
            unlink(temporary);
        }
        wasm_byte_vec_delete(&bytes);
    }
    free(temporary);
    free(path);
}
