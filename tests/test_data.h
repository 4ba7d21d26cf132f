/* llama.cpp's own test data: fetched at the first use, into the cache folder of the dependencies. */
#ifndef TESTS_TEST_DATA_H
#define TESTS_TEST_DATA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The folder with models/ and tests/. NULL, with the script's words on standard error. */
static inline const char *test_data_folder(void) {
    static char folder[512];
    if (!folder[0]) {
        FILE *script = popen("SAMEPAGE_CACHE=$(dirname \"$DEPS\") \"$SOURCE_DIR/scripts/fetch-test-data.sh\"", "r");
        if (!script || !fgets(folder, sizeof folder, script)) {
            folder[0] = 0;
        }
        if (script && pclose(script) != 0) {
            folder[0] = 0;
        }
        folder[strcspn(folder, "\n")] = 0;
    }
    return folder[0] ? folder : NULL;
}

#endif
