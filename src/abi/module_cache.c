/* See module_cache.h. A file is the BLAKE2b of what follows, and what Wasmtime's serialisation gave. */
#include "abi/module_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

static bool transfer(int fd, uint8_t *bytes, size_t size, bool out) {
    for (size_t done = 0; done < size;) {
        ssize_t n = out ? write(fd, bytes + done, size - done) : read(fd, bytes + done, size - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

/* The whole file, malloc'ed, if it is a plain file that only the user can write and its digest is right. */
static uint8_t *read_checked(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat info;
    if (fd < 0) {
        return NULL;
    }
    bool trusted =
        fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() && !(info.st_mode & (S_IWGRP | S_IWOTH)) && info.st_size > DIGEST;
    *size = trusted ? (size_t)info.st_size : 0;
    uint8_t *bytes = trusted ? malloc(*size) : NULL;
    bool whole = bytes && transfer(fd, bytes, *size, false);
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

bool sp_module_cache_load(sp_module *module) {
    char *path = cache_path(module);
    size_t size = 0;
    uint8_t *bytes = path ? read_checked(path, &size) : NULL;
    free(path);
    wasmtime_error_t *error = bytes ? wasmtime_module_deserialize(module->host->engine, bytes + DIGEST, size - DIGEST, &module->module) : NULL;
    bool loaded = bytes && !error;
    if (error) {
        wasmtime_error_delete(error); /* made with other settings: it will be compiled and replaced */
    }
    free(bytes);
    return loaded;
}

static bool write_file(int fd, uint8_t digest[DIGEST], wasm_byte_vec_t *bytes) {
    bool ok = transfer(fd, digest, DIGEST, true) && transfer(fd, (uint8_t *)bytes->data, bytes->size, true);
    return close(fd) == 0 && ok;
}

void sp_module_cache_save(const sp_module *module) {
    char *path = cache_path(module), *temporary = path ? malloc(strlen(path) + 8) : NULL;
    wasm_byte_vec_t bytes = {0};
    wasmtime_error_t *error = temporary ? wasmtime_module_serialize(module->module, &bytes) : NULL;
    if (temporary && !error) {
        uint8_t digest[DIGEST];
        crypto_generichash(digest, DIGEST, (const uint8_t *)bytes.data, bytes.size, NULL, 0);
        sprintf(temporary, "%s.XXXXXX", path);
        int fd = mkostemp(temporary, O_CLOEXEC); /* 0600, and one for each writer */
        if (fd >= 0 && (!write_file(fd, digest, &bytes) || rename(temporary, path) != 0)) {
            unlink(temporary);
        }
        wasm_byte_vec_delete(&bytes);
    }
    if (error) {
        wasmtime_error_delete(error);
    }
    free(temporary);
    free(path);
}
