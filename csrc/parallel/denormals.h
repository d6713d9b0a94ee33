// How this thread treats denormal numbers: a mode of the processor. Inlined everywhere, for the reason that memory.h
// gives.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace rnnfast {

#if defined(__SSE2__)
constexpr std::uint64_t flushing = 0x8040;
__attribute__((always_inline)) inline std::uint64_t arithmetic_mode() { return _mm_getcsr(); }
__attribute__((always_inline)) inline void set_arithmetic_mode(std::uint64_t mode) {
    _mm_setcsr(static_cast<unsigned>(mode));
}
#elif defined(__aarch64__)
constexpr std::uint64_t flushing = std::uint64_t(1) << 24;
__attribute__((always_inline)) inline std::uint64_t arithmetic_mode() {
    std::uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
__attribute__((always_inline)) inline void set_arithmetic_mode(std::uint64_t mode) {
    asm volatile("msr fpcr, %0" ::"r"(mode) : "memory");
}
#else
constexpr std::uint64_t flushing = 0;
__attribute__((always_inline)) inline std::uint64_t arithmetic_mode() { return 0; }
__attribute__((always_inline)) inline void set_arithmetic_mode(std::uint64_t) {}
#endif

} // namespace rnnfast
