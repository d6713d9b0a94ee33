// Memory of a call or of a stream. Used by units of every instruction set and by those of none, so all of it is
// inlined: a copy that is compiled for one instruction set must not be the one that the linker keeps for another.
#pragma once

#include <cstddef>
#include <new>

namespace rnnfast {

// A block of bytes that begins on a cache line; std::bad_alloc if there is no memory.
class Memory {
    void *data_ = nullptr;
    static constexpr std::align_val_t line{64};

  public:
    Memory() = default;
    __attribute__((always_inline)) explicit Memory(std::size_t bytes) : data_(::operator new(bytes, line)) {}
    __attribute__((always_inline)) ~Memory() { ::operator delete(data_, line); }
    __attribute__((always_inline)) Memory &operator=(Memory &&other) noexcept {
        void *const mine = data_;
        data_ = other.data_;
        other.data_ = mine;
        return *this;
    }
    Memory(const Memory &) = delete;
    __attribute__((always_inline)) void *data() const { return data_; }
};

} // namespace rnnfast
