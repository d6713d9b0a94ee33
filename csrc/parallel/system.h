// What the kernels ask of the operating system. Inlined everywhere, for the reason that memory.h gives; for that reason
// too the clock is the system's and not <chrono>'s, which is made of templates.
#pragma once

#include <cstdint>

#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#include <ctime>

#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif

namespace rnnfast {

#ifdef _WIN32

__attribute__((always_inline)) inline void yield_core() { SwitchToThread(); }

[[noreturn]] __attribute__((always_inline)) inline void wait_for_the_end() {
    for (;;) Sleep(INFINITE);
}

__attribute__((always_inline)) inline std::int64_t nanoseconds() {
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    const std::int64_t second = 1'000'000'000;
    return ticks.QuadPart / rate.QuadPart * second + ticks.QuadPart % rate.QuadPart * second / rate.QuadPart;
}

inline void after_fork(void (*)()) {} // no process forks here

#else

__attribute__((always_inline)) inline void yield_core() { sched_yield(); }

[[noreturn]] __attribute__((always_inline)) inline void wait_for_the_end() {
    for (;;) pause();
}

__attribute__((always_inline)) inline std::int64_t nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

inline void after_fork(void (*in_child)()) { pthread_atfork(nullptr, nullptr, in_child); }

#endif

} // namespace rnnfast
