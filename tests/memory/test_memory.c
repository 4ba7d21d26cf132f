/*
 * Reservations, growth, images, written pages. test_page_sizes.sh runs it with larger pages too (SAMEPAGE_PAGE_SIZE), so nothing here knows 4,096.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "memory/memory.h"
#include "memory/os.h"

static uint64_t page;

static sp_memory *new_memory(uint64_t pages, uint64_t reserved) {
    sp_error err = {0};
    sp_memory *memory = NULL;
    if (sp_memory_create(pages * page, reserved * page, page, &memory, &err) != SP_OK) {
        fail_msg("%s", err.message);
    }
    return memory;
}

/* Does a read of this byte end the process with SIGSEGV? */
static bool faults(const volatile uint8_t *at) {
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer would report and exit instead */
        (void)*at;
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void test_reservation(void **state) {
    (void)state;
    sp_memory *memory = new_memory(2, 8);
    uint8_t *base = sp_memory_base(memory);
    assert_int_equal((uintptr_t)base % page, 0);
    assert_int_equal(sp_memory_size(memory), 2 * page);
    assert_int_equal(sp_memory_reservation(memory), 8 * page);
    assert_int_equal(base[0], 0);
    base[2 * page - 1] = 7;
    assert_true(faults(base + 2 * page)); /* reserved */
    assert_true(faults(base + 8 * page)); /* the guard */
    sp_memory_destroy(memory);
    sp_memory_destroy(NULL);
}

static void test_growth(void **state) {
    (void)state;
    sp_error err;
    sp_memory *memory = new_memory(1, 8);
    uint8_t *base = sp_memory_base(memory);
    base[0] = 42;
    assert_int_equal(sp_memory_grow(memory, 3 * page, &err), SP_OK);
    assert_ptr_equal(sp_memory_base(memory), base);
    assert_int_equal(sp_memory_size(memory), 3 * page);
    assert_int_equal(base[0], 42);
    assert_int_equal(base[3 * page - 1], 0);
    assert_int_equal(sp_memory_grow(memory, 9 * page, &err), SP_ERR_LIMIT);
    assert_non_null(strstr(err.message, "reservation"));
    assert_int_equal(sp_memory_grow(memory, UINT64_MAX, &err), SP_ERR_LIMIT);
    assert_int_equal(sp_memory_grow(memory, page, &err), SP_ERR_ARGUMENT);
    assert_int_equal(sp_memory_size(memory), 3 * page);
    assert_int_equal(sp_memory_grow(memory, 8 * page, &err), SP_OK);
    sp_memory_destroy(memory);
}

static void test_impossible_sizes(void **state) {
    (void)state;
    sp_error err;
    sp_memory *memory = (sp_memory *)1;
    assert_int_equal(sp_memory_create(4 * page, 2 * page, page, &memory, &err), SP_ERR_ARGUMENT);
    assert_null(memory);
    assert_int_equal(sp_memory_create(0, 0, 0, &memory, &err), SP_ERR_ARGUMENT);
    assert_int_equal(sp_memory_create(1, UINT64_MAX - 1, page, &memory, &err), SP_ERR_ARGUMENT);
    assert_int_equal(sp_memory_create(page, UINT64_C(1) << 62, page, &memory, &err), SP_ERR_NO_MEMORY);
    assert_null(memory);
}

static bool written(const sp_memory *memory, uint64_t at) {
    uint64_t bits[4] = {0};
    sp_error err;
    assert_int_equal(sp_memory_written_pages(memory, 0, sp_memory_size(memory), bits, &err), SP_OK);
    return bits[at / 64] >> at % 64 & 1;
}

static void test_images_are_copied_on_write(void **state) {
    (void)state;
    sp_error err;
    uint8_t *bytes = calloc(4, page);
    memset(bytes, 1, page);
    memset(bytes + 3 * page, 4, page); /* pages 1 and 2 are zeros: holes */
    sp_image *image = NULL;
    assert_int_equal(sp_image_from_bytes(bytes, 4 * page, &image, &err), SP_OK);
    sp_memory *parent = new_memory(4, 8), *child = new_memory(4, 8);
    assert_int_equal(sp_image_map(image, 0, parent, 0, 4 * page, &err), SP_OK);
    assert_int_equal(sp_image_map(sp_image_retain(image), 0, child, 0, 4 * page, &err), SP_OK);
    sp_image_release(image);
    sp_image_release(image); /* mappings outlive the image's handle */
    assert_memory_equal(sp_memory_base(parent), bytes, 4 * page);
    assert_false(written(parent, 0) || written(parent, 3));
    sp_memory_base(child)[0] = 99;
    sp_memory_base(child)[2 * page] = 98;
    assert_true(written(child, 0) && written(child, 2));
    assert_false(written(child, 1) || written(child, 3));
    assert_memory_equal(sp_memory_base(parent), bytes, 4 * page);
    sp_memory_destroy(parent);
    sp_memory_destroy(child);
    free(bytes);
}

static void test_images_of_files(void **state) {
    (void)state;
    sp_error err;
    int fd = sp_os_anonymous_file("test", 4 * page);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "here", 4, (off_t)page), 4);
    sp_image *image = NULL;
    assert_int_equal(sp_image_from_file(fd, page, 4 * page, &image, &err), SP_ERR_RANGE); /* beyond its end */
    assert_int_equal(sp_image_from_file(fd, 1, page, &image, &err), SP_ERR_RANGE);
    assert_int_equal(sp_image_from_file(-1, 0, page, &image, &err), SP_ERR_IO);
    assert_null(image);
    assert_int_equal(sp_image_from_file(fd, page, 2 * page, &image, &err), SP_OK);
    close(fd);
    assert_int_equal(sp_image_size(image), 2 * page);
    sp_memory *memory = new_memory(2, 2);
    assert_int_equal(sp_image_map(image, 0, memory, page, page, &err), SP_OK);
    assert_memory_equal(sp_memory_base(memory) + page, "here", 4);
    assert_int_equal(sp_image_map(image, 0, memory, page, 2 * page, &err), SP_ERR_RANGE);
    assert_int_equal(sp_image_map(image, page, memory, 0, 2 * page, &err), SP_ERR_RANGE);
    assert_int_equal(sp_image_map(image, 1, memory, 0, page, &err), SP_ERR_RANGE);
    assert_int_equal(sp_image_map(image, 0, memory, 0, 0, &err), SP_ERR_RANGE);
    sp_image_release(image);
    sp_memory_destroy(memory);
}

static void test_written_pages_wants_whole_pages(void **state) {
    (void)state;
    sp_error err;
    uint64_t bits[4];
    sp_memory *memory = new_memory(4, 8);
    sp_memory_base(memory)[2 * page] = 1;
    assert_true(written(memory, 2));
    assert_false(written(memory, 1));
    assert_int_equal(sp_memory_written_pages(memory, 1, page, bits, &err), SP_ERR_RANGE);
    assert_int_equal(sp_memory_written_pages(memory, 0, 5 * page, bits, &err), SP_ERR_RANGE);
    sp_memory_destroy(memory);
}

int main(void) {
    page = sp_os_page_size();
    print_message("page size: %llu\n", (unsigned long long)page);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reservation),      cmocka_unit_test(test_growth),
        cmocka_unit_test(test_impossible_sizes), cmocka_unit_test(test_images_are_copied_on_write),
        cmocka_unit_test(test_images_of_files),  cmocka_unit_test(test_written_pages_wants_whole_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
