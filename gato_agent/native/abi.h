// Error codes of the calls, and the numbers by which a caller tells that it was compiled with the same structs.
//
// A source defines GATO_ERRORS(X) as a list of X(CODE, "message") before it includes this file.

#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace {

constexpr int MOST_THREADS = 1024;  // of a call: OpenMP ends the process where it cannot start all of them

// Threads that a call may use: those of OpenMP are not there in a forked process, which would wait for them.
inline int &fork_limit() { static int limit = MOST_THREADS; return limit; }
inline int usable(int threads) { return std::min(threads, fork_limit()); }
#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { fork_limit() = 1; });
#endif

#define GATO_CODE(code, message) code,
#define GATO_MESSAGE(code, message) message,
enum Error : int32_t { NONE, GATO_ERRORS(GATO_CODE) ERRORS };
const char *const MESSAGES[] = {"no error", GATO_ERRORS(GATO_MESSAGE)};

// Write the size in bytes of each struct, as many as there is room for, and return how many structs there are.
inline int32_t write_sizes(std::initializer_list<int32_t> found, int32_t *sizes, int32_t capacity) {
    const int32_t count = int32_t(found.size());
    std::copy_n(found.begin(), std::max(0, std::min(count, capacity)), sizes);
    return count;
}

}  // namespace

// The message of an error code that a call returned.
extern "C" const char *gato_error(int32_t code) {
    return code >= 0 && code < ERRORS ? MESSAGES[code] : "unknown error";
}
