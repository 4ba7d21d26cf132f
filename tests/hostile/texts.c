/* Texts for the host's services: long, empty, not UTF-8, nested without an end, no conversation.
 * expect: done
 * limits: text_bytes=300000 step_ms=60000 */
#include "hostile.h"

static char text[300001];
static int32_t tokens[300001];

int32_t sp_step(void) {
    static const char fill[] = "a \n\t0'\xff\xc3\x28(";
    for (unsigned i = 0; i < sizeof fill - 1; i++) {
        memset(text, fill[i], sizeof text);
        EXPECT(1, sp_tokenize(0, text, 30000, SP_TOKENIZE_ADD_SPECIAL | SP_TOKENIZE_PARSE_SPECIAL, tokens, 300000) > 0);
    }
    EXPECT(SP_E_LIMIT, sp_tokenize(0, text, 300001, 0, tokens, 1));
    EXPECT(SP_E_LIMIT, sp_chat_format(0, text, 300001, 0, NULL, 0));
    EXPECT(SP_E_LIMIT, sp_detokenize(0, tokens, 75001, 0, NULL, 0));
    EXPECT(1, sp_tokenize(0, text, 0, 0, NULL, 0) >= 0);
    memset(text, '[', sizeof text);
    EXPECT(SP_E_LIMIT, sp_chat_format(0, text, 300000, 0, NULL, 0)); /* nested too deeply */
    EXPECT(SP_E_FORMAT, sp_chat_format(0, "", 0, 0, NULL, 0));
    EXPECT(SP_E_FORMAT, sp_chat_format(0, "{}", 2, 0, NULL, 0));
    EXPECT(SP_E_FORMAT, sp_chat_format(0, "[1]", 3, 0, NULL, 0));
    EXPECT(SP_E_FORMAT, sp_chat_format(0, "[{\"role\":1,\"content\":2}]", 24, 0, NULL, 0));
    EXPECT(SP_E_NOT_FOUND, sp_model_get_meta(0, text, 100000, NULL, 0));
    EXPECT(SP_E_NOT_FOUND, sp_model_get_meta(0, "nothing", 7, NULL, 0));
    EXPECT(1, sp_model_get_program(0, 99, 99, NULL, 0) < 0);
    EXPECT(1, sp_model_get_program(0, UINT32_MAX, 1, NULL, 0) < 0);
    return SP_DONE;
}
