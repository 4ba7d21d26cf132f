/*
 * What one says to the language-model actor (guest/llm) and what it answers.
 * Messages are little-endian structs, some followed by bytes; the first word is
 * the kind. Shared by the guest and by whoever drives it.
 */
#ifndef SAMEPAGE_LLM_H
#define SAMEPAGE_LLM_H

#include <stdint.h>

/* ---- to the actor ---- */
enum {
    SP_LLM_CONFIG = 1,     /* sp_llm_config, then logit biases, then stop strings; first message; later ones change sampling alone, and the generator
                              only if they bring a seed */
    SP_LLM_SYSTEM = 2,     /* sp_llm_text: the system message from now on; the conversation starts anew */
    SP_LLM_USER = 3,       /* sp_llm_text: a turn of the user; the answer follows */
    SP_LLM_COMPLETE = 4,   /* sp_llm_text: raw text after which to continue; the conversation starts anew */
    SP_LLM_REGENERATE = 5, /* sp_llm_simple: another answer to the last turn */
    SP_LLM_STOP = 6,       /* sp_llm_simple: end the answer now; SP_LLM_DONE follows */
    SP_LLM_RESET = 7,      /* sp_llm_simple: forget the conversation, keep the system message */
    SP_LLM_EVAL = 8,       /* sp_llm_eval, then n_tokens ids: evaluate them after what is there; SP_LLM_LOGITS follows for the last, or for each */
    SP_LLM_HISTORY = 9,    /* sp_llm_simple: tell what there is: SP_LLM_CONFIG as it holds now, SP_LLM_TURN for each message, then SP_LLM_DONE */
    SP_LLM_GRAMMAR = 10,   /* sp_llm_grammar, then text: constrains the answers from now on; SP_LLM_DONE follows */
    SP_LLM_CHAT = 11,      /* sp_llm_chat, then JSON: a whole request, as sp_chat_format takes it; the answer follows as SP_LLM_TOKEN and, parsed, as
                              SP_LLM_MESSAGE; the conversation starts anew */
    SP_LLM_SCORE = 12,     /* sp_llm_score, then n_tokens ids: forget what is there, evaluate these; SP_LLM_LOGPROBS follow */
    SP_LLM_EMBED = 13,     /* sp_llm_embed, then text: its embedding; SP_LLM_EMBEDDING follow. Needs, and is all that is answered after, a
                              configuration with embeddings */
};

typedef struct sp_llm_simple {
    uint32_t kind, reserved;
} sp_llm_simple;

typedef struct sp_llm_config {
    uint32_t kind;
    uint32_t n_ctx;                                            /* cells of the attention cache; 0: the model's context, at most 4,096 */
    uint32_t n_batch;                                          /* tokens a prefill step, 1 to 512; 0: 512 */
    int32_t max_tokens;                                        /* of one answer; -1: until the context is full */
    uint32_t type_k, type_v;                                   /* SP_TYPE_F16 (1) */
    float temperature;                                         /* 0: greedy */
    int32_t top_k;                                             /* 0: off */
    float top_p, min_p;                                        /* 1 and 0: off */
    float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off */
    int32_t repeat_last_n;                                     /* tokens the penalties look back; 0: off, -1: all */
    uint32_t has_seed;                                         /* 1: use seed; 0: the actor's own */
    uint32_t ignore_end;                                       /* 1: go on after an end token */
    uint32_t logprobs;                                         /* 1: tell each token's logprob (a pass over all logits) */
    uint32_t n_top;                                            /* likeliest tokens told with each token, at most SP_LLM_MAX_TOP; 0: none */
    uint64_t seed;
    uint32_t n_bias;                  /* sp_llm_bias follow */
    uint32_t n_stop;                  /* then stop strings follow: each a uint32_t length and its bytes, unpadded */
    uint32_t n_lookup;                /* tokens drafted from the context and verified in one batch, at most so many, and 32; 0: off */
    uint32_t embeddings;              /* 1: the actor is for SP_LLM_EMBED; the first configuration decides */
    uint32_t lookup_always, reserved; /* 1: every draft is evaluated, whether it saves time or not */
} sp_llm_config;
enum { SP_LLM_MAX_TOP = 64 };

typedef struct sp_llm_bias {
    int32_t token;
    float bias;
} sp_llm_bias;

typedef struct sp_llm_text {
    uint32_t kind;
    uint32_t length; /* bytes of UTF-8 that follow */
} sp_llm_text;

typedef struct sp_llm_eval {
    uint32_t kind;
    uint32_t n_tokens;
    uint32_t each;   /* 1: logits for each token; 0: for the last */
    uint32_t assume; /* 1: compute nothing: the cells of these tokens hold their state already, put there from outside; no logits */
} sp_llm_eval;

typedef struct sp_llm_grammar {
    uint32_t kind;
    uint32_t grammar; /* SP_GRAMMAR_GBNF or SP_GRAMMAR_JSON_SCHEMA */
    uint32_t length;  /* bytes that follow; 0: none from now on */
    uint32_t reserved;
} sp_llm_grammar;

typedef struct sp_llm_chat {
    uint32_t kind;
    uint32_t length;  /* bytes of JSON that follow */
    uint32_t partial; /* 1: SP_LLM_MESSAGE after each token too */
    uint32_t reserved;
} sp_llm_chat;

typedef struct sp_llm_score {
    uint32_t kind;
    uint32_t n_tokens;
    uint32_t from; /* the first token after which the next one's logprob is wanted */
    uint32_t reserved;
} sp_llm_score;

/* How a text's embedding is made of its tokens'; the numbers of GGUF's pooling_type. */
enum { SP_LLM_POOLING_MODEL = -1, SP_LLM_POOLING_NONE = 0, SP_LLM_POOLING_MEAN = 1, SP_LLM_POOLING_CLS = 2, SP_LLM_POOLING_LAST = 3 };
typedef struct sp_llm_embed {
    uint32_t kind;
    uint32_t length;   /* bytes of UTF-8 that follow */
    int32_t pooling;   /* SP_LLM_POOLING_*: by mean, of the first token or of the last; none: one embedding for each token */
    int32_t normalise; /* to a length of 1 by the p-norm of this number (2: Euclidean); 0: the largest is 32760; -1: not at all */
} sp_llm_embed;

/* ---- from the actor ---- */
enum {
    SP_LLM_READY = 101,     /* sp_llm_ready, after SP_LLM_CONFIG */
    SP_LLM_PROGRESS = 102,  /* sp_llm_progress, after each prefill step but the last */
    SP_LLM_TOKEN = 103,     /* sp_llm_token, then text: whole UTF-8 characters, maybe none */
    SP_LLM_DONE = 104,      /* sp_llm_done: the request is finished */
    SP_LLM_ERROR = 105,     /* sp_llm_text: why the request failed; the actor goes on */
    SP_LLM_LOGITS = 106,    /* sp_llm_logits, then n_vocab floats */
    SP_LLM_TURN = 107,      /* sp_llm_turn, then text */
    SP_LLM_TOP = 108,       /* sp_llm_top, then n sp_llm_likely; before the SP_LLM_TOKEN that it is about */
    SP_LLM_MESSAGE = 109,   /* sp_llm_message, then JSON: the answer with content, reasoning_content and tool_calls */
    SP_LLM_LOGPROBS = 110,  /* sp_llm_logprobs, then n floats */
    SP_LLM_EMBEDDING = 111, /* sp_llm_embedding, then n_embd floats */
};

typedef struct sp_llm_ready {
    uint32_t kind;
    uint32_t n_ctx, n_vocab, reserved;
    uint64_t state_bytes; /* the cache and other state, in linear memory */
} sp_llm_ready;

typedef struct sp_llm_progress {
    uint32_t kind;
    uint32_t done, total; /* prompt tokens */
    uint32_t reserved;
} sp_llm_progress;

typedef struct sp_llm_token {
    uint32_t kind;
    int32_t token;
    float logprob;   /* natural logarithm of its probability before sampling's cuts; 0 unless asked for */
    uint32_t length; /* bytes of text that follow */
} sp_llm_token;

/* Why an answer ended. */
enum {
    SP_LLM_END_TOKEN = 1, /* the model said so */
    SP_LLM_END_STOP_STRING = 2,
    SP_LLM_END_MAX_TOKENS = 3,
    SP_LLM_END_CONTEXT = 4,     /* the context is full */
    SP_LLM_END_INTERRUPTED = 5, /* SP_LLM_STOP */
    SP_LLM_END_NOTHING = 6,     /* a request without an answer (system, reset, eval, history) is done */
};

typedef struct sp_llm_done {
    uint32_t kind;
    uint32_t reason;
    uint32_t n_prompt;                 /* tokens of the prompt that were evaluated for this request */
    uint32_t n_cached;                 /* tokens of the prompt that were there already */
    uint32_t n_answer;                 /* tokens generated */
    uint32_t n_past;                   /* tokens in the context now */
    uint32_t n_drafted, n_draft_right; /* tokens of drafts that were evaluated, and those of them that the answer has */
    uint64_t prompt_ns, answer_ns;
} sp_llm_done;

typedef struct sp_llm_logits {
    uint32_t kind;
    uint32_t position;
    uint32_t n_vocab, reserved;
} sp_llm_logits;

typedef struct sp_llm_turn {
    uint32_t kind;
    uint32_t role; /* 0 system, 1 user, 2 assistant */
    uint32_t length, reserved;
} sp_llm_turn;

typedef struct sp_llm_top {
    uint32_t kind;
    uint32_t n;
} sp_llm_top;

typedef struct sp_llm_likely {
    int32_t token;
    float logprob;
} sp_llm_likely;

typedef struct sp_llm_message {
    uint32_t kind;
    uint32_t length;
    uint32_t partial; /* 1: more will come */
    uint32_t reserved;
} sp_llm_message;

typedef struct sp_llm_embedding {
    uint32_t kind;
    int32_t pooling;   /* as it was done */
    uint32_t position; /* of the token, where nothing is pooled */
    uint32_t n_embd;
} sp_llm_embedding;

typedef struct sp_llm_logprobs {
    uint32_t kind;
    uint32_t position; /* of the token after which the first one comes */
    uint32_t n;
    uint32_t reserved;
} sp_llm_logprobs;

#endif
