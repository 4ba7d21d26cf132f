/* Runs a target on files: what a corpus holds, as an ordinary test. Arguments are files, or folders of them; says how many inputs there were. */
#include <dirent.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

/* Targets with a mutator of their own refer to libFuzzer's; nothing is mutated here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity) {
    (void)data, (void)capacity;
    return size;
}

static bool replay_file(const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info) != 0) {
        fprintf(stderr, "can't read %s\n", path);
        exit(1);
    }
    if (!S_ISREG(info.st_mode)) {
        fclose(file);
        return false;
    }
    /* A block of exactly the input's size: ASan sees the first byte beyond. */
    uint8_t *data = malloc((size_t)info.st_size ? (size_t)info.st_size : 1);
    if (!data || fread(data, 1, (size_t)info.st_size, file) != (size_t)info.st_size) {
        fprintf(stderr, "can't read %s\n", path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, (size_t)info.st_size);
    free(data);
    return true;
}

static size_t replay(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) {
        return replay_file(path);
    }
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        count += entry->d_name[0] != '.' && replay_file(name);
    }
    closedir(folder);
    return count;
}

int main(int argc, char **argv) {
    size_t count = 0;
    for (int i = 1; i < argc; i++) {
        count += replay(argv[i]);
    }
    printf("%zu inputs, no fault\n", count);
    return count ? 0 : 1;
}
