/* Immutable pages in a file or an anonymous file, mapped copy-on-write. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "memory/memory.h"
#include "memory/os.h"

struct sp_image {
    atomic_uint references;
    int fd;
    uint64_t offset, size;
};

static sp_status image_create(int fd, uint64_t offset, uint64_t size, sp_image **out, sp_error *err) {
    sp_image *image = malloc(sizeof *image);
    if (!image) {
        close(fd);
        return sp_fail(err, SP_ERR_NO_MEMORY, "out of memory");
    }
    *image = (sp_image){.references = 1, .fd = fd, .offset = offset, .size = size};
    *out = image;
    return SP_OK;
}

static bool all_zero(const uint8_t *bytes, uint64_t size) {
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

sp_status sp_image_from_bytes(const void *bytes, uint64_t size, sp_image **out, sp_error *err) {
    *out = NULL;
    uint64_t page = sp_os_page_size(), whole;
    if (!sp_align_up_u64(size, page, &whole) || whole == 0) {
        return sp_fail(err, SP_ERR_ARGUMENT, "an image of %llu bytes can't be", (unsigned long long)size);
    }
    int fd = sp_os_anonymous_file("samepage-image", whole);
    if (fd < 0) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't make an image of %llu bytes: %s", (unsigned long long)size, strerror(errno));
    }
    const uint8_t *from = bytes;
    for (uint64_t at = 0; at < size; at += page) {
        uint64_t n = size - at < page ? size - at : page;
        if (!all_zero(from + at, n) && !sp_os_write_at(fd, from + at, n, at)) {
            int error = errno;
            close(fd);
            return sp_fail(err, SP_ERR_NO_MEMORY, "can't fill an image of %llu bytes: %s", (unsigned long long)size, strerror(error));
        }
    }
    return image_create(fd, 0, whole, out, err);
}

sp_status sp_image_from_file(int fd, uint64_t offset, uint64_t size, sp_image **out, sp_error *err) {
    *out = NULL;
    uint64_t page = sp_os_page_size();
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return sp_fail(err, SP_ERR_IO, "can't look at the image's file: %s", strerror(errno));
    }
    if (offset % page || size == 0 || !sp_range_within(offset, size, (uint64_t)info.st_size)) {
        return sp_fail(err, SP_ERR_RANGE, "the image's range [%llu, +%llu) is not inside its file of %llu bytes, at a page",
                       (unsigned long long)offset, (unsigned long long)size, (unsigned long long)info.st_size);
    }
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) {
        return sp_fail(err, SP_ERR_IO, "can't duplicate the image's descriptor: %s", strerror(errno));
    }
    return image_create(own, offset, size, out, err);
}

sp_image *sp_image_retain(sp_image *image) {
    atomic_fetch_add(&image->references, 1);
    return image;
}

void sp_image_release(sp_image *image) {
    if (image && atomic_fetch_sub(&image->references, 1) == 1) {
        close(image->fd);
        free(image);
    }
}

uint64_t sp_image_size(const sp_image *image) {
    return image->size;
}

sp_status sp_image_map(sp_image *image, uint64_t image_offset, sp_memory *memory, uint64_t at, uint64_t length, sp_error *err) {
    uint64_t page = sp_os_page_size(), whole = image->size;
    if (!sp_align_up_u64(whole, page, &whole) || image_offset % page || at % page || length % page || length == 0 ||
        !sp_range_within(image_offset, length, whole) || !sp_range_within(at, length, sp_memory_size(memory))) {
        return sp_fail(err, SP_ERR_RANGE, "the mapping of an image is not whole pages inside both the image and the memory");
    }
    if (!sp_os_map_file(sp_memory_base(memory) + at, length, image->fd, image->offset + image_offset)) {
        return sp_fail(err, SP_ERR_NO_MEMORY, "can't map an image: %s", strerror(errno));
    }
    return SP_OK;
}
