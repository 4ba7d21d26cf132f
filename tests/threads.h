/* How many threads a test's device gets. ThreadSanitizer sees what ggml's threads touch but not what orders them, for ggml is not instrumented: one.
 */
#ifndef TESTS_THREADS_H
#define TESTS_THREADS_H

#ifdef __SANITIZE_THREAD__
#define SOME_THREADS(n) 1
#else
#define SOME_THREADS(n) n
#endif

#endif
