/* The four functions of libsodium that the log calls, for a machine that there is no libsodium for here. Exporting, which needs the rest, is left
 * out. */
#include <sodium.h>
#include <stdio.h>
#include <sys/random.h>

int sodium_init(void) {
    return 0;
}

void randombytes_buf(void *const bytes, const size_t size) {
    if (getrandom(bytes, size, 0) != (ssize_t)size) {
        perror("getrandom");
    }
}

char *sodium_bin2hex(char *const hex, const size_t room, const unsigned char *const bytes, const size_t size) {
    for (size_t i = 0; i < size; i++) {
        snprintf(hex + 2 * i, room - 2 * i, "%02x", bytes[i]);
    }
    return hex;
}

/* Without `ignore`, which the log does not use. */
int sodium_hex2bin(unsigned char *const bytes, const size_t room, const char *const hex, const size_t length, const char *const ignore,
                   size_t *const written, const char **const end) {
    unsigned byte;
    *written = 0;
    while (*written < room && 2 * *written + 1 < length && sscanf(hex + 2 * *written, "%2x", &byte) == 1) {
        bytes[(*written)++] = (unsigned char)byte;
    }
    return ignore || end || 2 * *written != length ? -1 : 0;
}
