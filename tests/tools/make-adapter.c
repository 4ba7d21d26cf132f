/*
 * Writes a LoRA adapter with random values for each product of a model's layers.
 *
 *   make-adapter MODEL.gguf ADAPTER.gguf [SEED]
 */
#include "adapter.h"

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: make-adapter MODEL.gguf ADAPTER.gguf [SEED]\n");
        return 2;
    }
    const adapter_settings settings = {.rank = 4, .alpha = 8, .size = 0.2f, .seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1};
    if (!write_adapter(argv[1], argv[2], &settings)) {
        fprintf(stderr, "make-adapter: %s can't be read, or %s can't be written\n", argv[1], argv[2]);
        return 1;
    }
    return 0;
}
