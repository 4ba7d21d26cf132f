/* A flood of messages, and one that is too long.
 * expect: done
 * limits: sent_messages=100 message_bytes=1000 */
#include "hostile.h"

int32_t sp_step(void) {
    static char text[2000];
    EXPECT(SP_E_LIMIT, sp_send(text, 1001));
    int32_t got = 0, n = 0;
    for (; n < 1000000 && (got = sp_send(text, 1000)) == 0; n++) {
    }
    EXPECT(SP_E_LIMIT, got);
    EXPECT(100, n);
    return SP_DONE;
}
