/* Folders that tests read from and write to, by the names of environment variables. */
#ifndef SP_TESTS_FOLDERS_H
#define SP_TESTS_FOLDERS_H

#include <stdio.h>
#include <stdlib.h>

/* The folder. Where none is named, the test ends: it would leave its files wherever it was started. */
static inline const char *folder_of(const char *variable) {
    const char *folder = getenv(variable);
    if (!folder) {
        fprintf(stderr, "%s is not set: run tests by ctest, or set BUILD_DIR and SOURCE_DIR to the folders of the build and of the sources\n",
                variable);
        exit(2);
    }
    return folder;
}

#endif
