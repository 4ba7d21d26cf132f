/*
 * Files that leave the store: a session that stands alone, as it is, or in a zstd frame, or either of these encrypted. An encrypted file is a header
 * and chunks of libsodium's secretstream (docs/snapshot.md); its key comes from a passphrase by Argon2id.
 */
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <zstd.h>

#include "base/error.h"
#include "memory/os.h"
#include "snapshot/io.h"
#include "snapshot/record.h"

enum { CHUNK = 64 * 1024, SEALED = CHUNK + crypto_secretstream_xchacha20poly1305_ABYTES };
#define LENGTH_MAX ((uint64_t)SP_LOG_PAGES_MAX * SP_LOG_PAGE * 16) /* of what a compressed file may become: 1 TiB */

typedef struct crypt_header {
    uint8_t magic[8];
    uint32_t version, zero;
    uint64_t opslimit, memlimit;
    uint8_t salt[crypto_pwhash_SALTBYTES];
    uint8_t header[crypto_secretstream_xchacha20poly1305_HEADERBYTES];
} crypt_header;
_Static_assert(sizeof(crypt_header) == 72, "no padding");

static const uint8_t crypt_magic[8] = {'S', 'P', 'C', 'R', 'Y', 'P', 'T', '\n'};
static const uint8_t zstd_magic[4] = {0x28, 0xb5, 0x2f, 0xfd};

typedef struct stream {
    int fd;
    uint64_t offset;
    bool encrypted;
    crypto_secretstream_xchacha20poly1305_state state;
    crypt_header head;
    bool ended; /* reading: the last chunk was seen */
    uint8_t plain[CHUNK], sealed[SEALED];
    size_t n; /* bytes in plain: writing: kept back; reading: there are */
    size_t at;
} stream;

/* Another temporary name beside the first. */
static char *second_path(const char *temporary) {
    size_t size = strlen(temporary) + 8;
    char *path = malloc(size);
    if (path) {
        snprintf(path, size, "%s-2", temporary);
        unlink(path);
    }
    return path;
}

static sp_status make_key(const char *passphrase, const crypt_header *head, uint8_t key[32], sp_error *err) {
    _Static_assert(crypto_secretstream_xchacha20poly1305_KEYBYTES == 32, "the key's size");
    /* The limits come from a file: they must not make us take all memory, or all day. */
    if (head->opslimit < 1 || head->opslimit > 16 || head->memlimit < crypto_pwhash_MEMLIMIT_MIN || head->memlimit > 1ull << 30) {
        return sp_fail(err, SP_ERR_FORMAT, "the encryption asks for %llu passes over %llu bytes: more than is sensible",
                       (unsigned long long)head->opslimit, (unsigned long long)head->memlimit);
    }
    if (crypto_pwhash(key, 32, passphrase, strlen(passphrase), head->salt, head->opslimit, (size_t)head->memlimit, crypto_pwhash_ALG_ARGON2ID13)) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "no memory (%llu MiB) to make a key of the passphrase", (unsigned long long)(head->memlimit >> 20));
    }
    return SP_OK;
}

/* ---- writing ---- */

static bool put_all(stream *s, const void *bytes, size_t size) {
    bool ok = sp_log_write_at(s->fd, bytes, size, s->offset);
    s->offset += size;
    return ok;
}

static bool seal(stream *s, bool last) {
    unsigned long long size;
    bool first = s->offset == sizeof s->head;
    crypto_secretstream_xchacha20poly1305_push(&s->state, s->sealed, &size, s->plain, s->n, first ? (const uint8_t *)&s->head : NULL,
                                               first ? sizeof s->head : 0, last ? crypto_secretstream_xchacha20poly1305_TAG_FINAL : 0);
    s->n = 0;
    return put_all(s, s->sealed, (size_t)size);
}

/* Writes bytes on; a chunk is sealed when more follows, so that the last one can be told. */
static bool put(stream *s, const uint8_t *bytes, size_t size) {
    if (!s->encrypted) {
        return put_all(s, bytes, size);
    }
    while (size) {
        if (s->n == CHUNK && !seal(s, false)) {
            return false;
        }
        size_t n = CHUNK - s->n < size ? CHUNK - s->n : size;
        memcpy(s->plain + s->n, bytes, n);
        s->n += n, bytes += n, size -= n;
    }
    return true;
}

static sp_status start_encryption(stream *s, const char *passphrase, sp_error *err) {
    uint8_t key[32];
    s->head = (crypt_header){.version = 1, .opslimit = crypto_pwhash_OPSLIMIT_MODERATE, .memlimit = crypto_pwhash_MEMLIMIT_MODERATE};
    memcpy(s->head.magic, crypt_magic, sizeof crypt_magic);
    randombytes_buf(s->head.salt, sizeof s->head.salt);
    sp_status status = make_key(passphrase, &s->head, key, err);
    if (!status) {
        crypto_secretstream_xchacha20poly1305_init_push(&s->state, s->head.header, key);
        s->encrypted = true;
    }
    sodium_memzero(key, sizeof key);
    if (!status && !put_all(s, &s->head, sizeof s->head)) {
        status = sp_fail(err, SP_ERR_IO, "the export can't be written: %s", strerror(errno));
    }
    return status;
}

/* Pours the file fd, of size bytes, into a stream, through zstd where level isn't 0. */
static sp_status pour_out(const sp_log *log, int fd, uint64_t size, int level, stream *s, sp_error *err) {
    ZSTD_CCtx *context = level ? ZSTD_createCCtx() : NULL;
    uint8_t *in = malloc(CHUNK), *out = malloc(CHUNK);
    if (!in || !out || (level && !context)) {
        free(in);
        free(out);
        ZSTD_freeCCtx(context);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    if (level) {
        ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
        ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    }
    bool ok = true;
    for (uint64_t at = 0; ok && at < size;) {
        size_t n = size - at < CHUNK ? (size_t)(size - at) : CHUNK, left;
        bool last = at + n == size;
        sp_log_tell(log, "writing", at, size);
        ok = sp_log_read_at(fd, in, n, at);
        at += n;
        ZSTD_inBuffer source = {in, n, 0};
        do {
            ZSTD_outBuffer target = {out, CHUNK, 0};
            left = level ? ZSTD_compressStream2(context, &target, &source, last ? ZSTD_e_end : ZSTD_e_continue) : 0;
            ok = ok && !ZSTD_isError(left) && (level ? put(s, out, target.pos) : put(s, in, n));
        } while (ok && level && (last ? left != 0 : source.pos < source.size));
    }
    if (ok && s->encrypted) {
        ok = seal(s, true);
    }
    int problem = errno;
    free(in);
    free(out);
    ZSTD_freeCCtx(context);
    return ok ? SP_OK : sp_fail(err, SP_ERR_IO, "the export can't be written: %s", strerror(problem));
}

static sp_status write_wrapped(const sp_log *copy, const char *path, const sp_export_options *options, sp_error *err) {
    stream *s = calloc(1, sizeof *s);
    if (!s) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    s->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    sp_status status = s->fd >= 0 ? SP_OK : sp_fail(err, SP_ERR_IO, "%s: can't be created: %s", path, strerror(errno));
    flock(s->fd, LOCK_EX | LOCK_NB); /* tells who clears temporary files away that it is in use */
    if (!status && options->passphrase) {
        status = start_encryption(s, options->passphrase, err);
    }
    status = status ? status : pour_out(copy, copy->fd, copy->end, options->compression, s, err);
    if (!status && sp_snapshot_io.sync(s->fd)) {
        status = sp_fail(err, SP_ERR_IO, "%s: can't be synced: %s", path, strerror(errno));
    }
    sp_log_close_fd(s->fd);
    sodium_memzero(s, sizeof *s);
    free(s);
    return status;
}

sp_status sp_session_export(sp_session *log, const char *path, const sp_export_options *options, sp_error *err) {
    const sp_export_options plain = {0};
    options = options ? options : &plain;
    if (options->compression < 0 || options->compression > 19 || (options->passphrase && !*options->passphrase)) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the level of compression is 0 to 19, and a passphrase has at least one byte");
    }
    char *alone = sp_log_temporary_path(path), *wrapped = alone ? second_path(alone) : NULL;
    if (!wrapped) {
        free(alone);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    bool wrap = options->compression || options->passphrase;
    sp_log *copy = NULL;
    sp_status status = sp_log_copy_alone(log, options->number, alone, &copy, err);
    if (!status && wrap) {
        copy->progress = log->progress;
        copy->progress_user = log->progress_user;
        status = write_wrapped(copy, wrapped, options, err);
    }
    status = status ? status : sp_log_appear(wrap ? wrapped : alone, path, err);
    sp_log_discard(copy);
    unlink(wrapped);
    free(wrapped);
    free(alone);
    return status;
}

/* ---- reading ---- */

/* Reads up to size bytes of the file; fewer only at its end. */
static bool get_all(stream *s, void *bytes, size_t size, size_t *got) {
    int64_t n = sp_os_read_at(s->fd, bytes, size, s->offset);
    *got = n > 0 ? (size_t)n : 0;
    s->offset += *got;
    return n >= 0;
}

/* Fills plain with what comes next; n is 0 at the end. */
static sp_status refill(stream *s, sp_error *err) {
    size_t got = 0;
    s->n = s->at = 0;
    if (!s->encrypted) {
        return get_all(s, s->plain, CHUNK, &s->n) ? SP_OK : sp_fail(err, SP_ERR_IO, "the file can't be read: %s", strerror(errno));
    }
    if (s->ended) {
        return SP_OK;
    }
    bool first = s->offset == sizeof s->head;
    if (!get_all(s, s->sealed, SEALED, &got)) {
        return sp_fail(err, SP_ERR_IO, "the file can't be read: %s", strerror(errno));
    }
    uint8_t tag = 0;
    unsigned long long size = 0;
    if (got < crypto_secretstream_xchacha20poly1305_ABYTES ||
        crypto_secretstream_xchacha20poly1305_pull(&s->state, s->plain, &size, &tag, s->sealed, got, first ? (const uint8_t *)&s->head : NULL,
                                                   first ? sizeof s->head : 0)) {
        return first ? sp_fail(err, SP_ERR_ARGUMENT, "another passphrase than the file was encrypted with, or the file is damaged")
                     : sp_fail(err, SP_ERR_FORMAT, "the encrypted file is damaged or cut");
    }
    s->n = (size_t)size;
    s->ended = tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL;
    if (s->ended && (!get_all(s, s->sealed, 1, &got) || got)) {
        return sp_fail(err, SP_ERR_FORMAT, "the encrypted file goes on after its end");
    }
    return SP_OK;
}

static sp_status start_decryption(stream *s, const char *passphrase, sp_error *err) {
    uint8_t key[32];
    size_t got;
    s->offset = 0;
    if (!get_all(s, &s->head, sizeof s->head, &got) || got < sizeof s->head) {
        return sp_fail(err, SP_ERR_FORMAT, "the encrypted file is cut");
    }
    if (s->head.version != 1 || s->head.zero) {
        return sp_fail(err, SP_ERR_UNSUPPORTED, "version %u of encrypted files; this build reads version 1", s->head.version);
    }
    if (!passphrase) {
        return sp_fail(err, SP_ERR_ARGUMENT, "the file is encrypted: a passphrase is needed");
    }
    sp_status status = make_key(passphrase, &s->head, key, err);
    if (!status) {
        (void)crypto_secretstream_xchacha20poly1305_init_pull(&s->state, s->head.header, key); /* looks at nothing yet: it can't fail */
    }
    sodium_memzero(key, sizeof key);
    s->encrypted = true;
    return status;
}

/* Pages of zeros become holes. */
static bool put_sparse(int fd, const uint8_t *bytes, size_t size, uint64_t *at) {
    for (size_t done = 0; done < size;) {
        size_t n = SP_LOG_PAGE - *at % SP_LOG_PAGE;
        n = n < size - done ? n : size - done;
        if (!sodium_is_zero(bytes + done, n) && !sp_log_write_at(fd, bytes + done, n, *at)) {
            return false;
        }
        done += n, *at += n;
    }
    return true;
}

static sp_status pour_in(stream *s, int fd, sp_error *err) {
    uint64_t at = 0;
    bool compressed = s->n >= sizeof zstd_magic && memcmp(s->plain, zstd_magic, sizeof zstd_magic) == 0;
    ZSTD_DCtx *context = compressed ? ZSTD_createDCtx() : NULL;
    uint8_t *out = malloc(CHUNK);
    size_t left = compressed ? 1 : 0;
    sp_status status = out && (context || !compressed) ? SP_OK : sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    while (!status && s->n) {
        ZSTD_inBuffer source = {s->plain, s->n, 0};
        ZSTD_outBuffer target;
        do {
            target = (ZSTD_outBuffer){out, CHUNK, 0};
            left = compressed ? ZSTD_decompressStream(context, &target, &source) : 0;
            if (ZSTD_isError(left) || at > LENGTH_MAX) {
                status = sp_fail(err, SP_ERR_FORMAT, "the compressed file is damaged: %s", at > LENGTH_MAX ? "too long" : ZSTD_getErrorName(left));
            } else if (!put_sparse(fd, compressed ? out : s->plain, compressed ? target.pos : s->n, &at)) {
                status = sp_fail(err, SP_ERR_IO, "the session can't be written: %s", strerror(errno));
            }
        } while (!status && compressed && (source.pos < source.size || (left && target.pos == target.size)));
        status = status ? status : refill(s, err);
    }
    if (!status && (left || (s->encrypted && !s->ended))) {
        status = sp_fail(err, SP_ERR_FORMAT, "the file is cut");
    }
    if (!status && sp_snapshot_io.truncate(fd, (off_t)at)) {
        status = sp_fail(err, SP_ERR_IO, "the session can't be written: %s", strerror(errno));
    }
    free(out);
    ZSTD_freeDCtx(context);
    return status;
}

/* Unwraps exported into a file at path. */
static sp_status unwrap(const char *exported, const char *path, const char *passphrase, sp_error *err) {
    stream *s = calloc(1, sizeof *s);
    if (!s) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    struct stat st;
    s->fd = open(exported, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    sp_status status = SP_OK;
    if (s->fd < 0 || fstat(s->fd, &st)) {
        status = sp_fail(err, sp_log_status_of(errno), "%s: %s", exported, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        status = sp_fail(err, SP_ERR_FORMAT, "%s: no ordinary file", exported);
    }
    status = status ? status : refill(s, err);
    if (!status && s->n >= sizeof crypt_magic && memcmp(s->plain, crypt_magic, sizeof crypt_magic) == 0) {
        status = start_decryption(s, passphrase, err);
        status = status ? status : refill(s, err);
    }
    int fd = status ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (!status && fd < 0) {
        status = sp_fail(err, SP_ERR_IO, "%s: can't be created: %s", path, strerror(errno));
    }
    flock(fd, LOCK_EX | LOCK_NB); /* as in write_wrapped */
    status = status ? status : pour_in(s, fd, err);
    sp_log_close_fd(fd);
    sp_log_close_fd(s->fd);
    sodium_memzero(s, sizeof *s);
    free(s);
    return status;
}

sp_status sp_session_import(const char *exported, const char *path, const char *passphrase, sp_progress progress, void *user, sp_error *err) {
    char *raw = sp_log_temporary_path(path), *fresh = raw ? second_path(raw) : NULL;
    if (!fresh || sodium_init() < 0) {
        free(fresh);
        free(raw);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    sp_log *log = NULL, *copy = NULL;
    sp_status status = unwrap(exported, raw, passphrase, err);
    status = status ? status : sp_session_open(raw, true, &log, err);
    if (!status) {
        sp_session_set_progress(log, progress, user);
        status = log->ignored ? sp_fail(err, SP_ERR_FORMAT, "%s: %llu bytes at its end are no commit: it is cut or damaged", exported,
                                        (unsigned long long)log->ignored)
                              : sp_session_verify(log, err);
    }
    /* Copied, not taken as it is: it gets an id of its own, whoever else imported the same file. */
    status = status ? status : sp_log_copy_alone(log, 0, fresh, &copy, err);
    status = status ? status : sp_log_appear(fresh, path, err);
    sp_log_discard(copy);
    sp_session_close(log);
    unlink(raw);
    free(fresh);
    free(raw);
    return status;
}
