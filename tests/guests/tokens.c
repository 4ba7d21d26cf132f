/* Answers each text with its tokens, as the host's vocabulary gives them. */
#include "samepage/actor.h"

int32_t sp_step(void) {
    int32_t size = sp_receive(NULL, 0);
    if (size < 0) {
        return SP_IDLE;
    }
    char *text = malloc((uint32_t)size + 1);
    if (size > 0) {
        sp_receive(text, (uint32_t)size);
    }
    int32_t n = sp_actor_check(sp_tokenize(0, text, (uint32_t)size, 0, NULL, 0), "tokenize");
    int32_t *tokens = malloc(((uint32_t)n + 1) * sizeof *tokens);
    sp_actor_check(sp_tokenize(0, text, (uint32_t)size, 0, tokens, (uint32_t)n), "tokenize");
    sp_send(tokens, (uint32_t)n * sizeof *tokens);
    free(tokens);
    free(text);
    return SP_AGAIN;
}
