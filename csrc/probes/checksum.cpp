#include "probes/probes.h"

#include <cstring>

namespace rnnfast {

namespace {

// Sums of words and sums of these sums (Fletcher 1982), in lanes side by side: as fast as memory, and any single change
// or exchange shows. Six vectors of each are what SSE2 has registers for. Rejected: multiply-xor chains, an array of
// words (docs/lab/cpu-tuning.md).
struct Hash {
    typedef std::uint64_t Words __attribute__((vector_size(16)));
    static constexpr int vectors = 6;
    Words sum[vectors] = {}, sums[vectors] = {};

    void add(const char *p, index bytes) {
        constexpr auto block = index(sizeof sum);
        Hash hash = *this; // in registers, which no byte of the array can be
        for (; bytes >= block; p += block, bytes -= block) hash.mix(p);
        if (bytes != 0) {
            char rest[block] = {};
            std::memcpy(rest, p, static_cast<std::size_t>(bytes));
            hash.mix(rest);
        }
        *this = hash;
    }
    __attribute__((always_inline)) void mix(const char *p) {
#pragma GCC unroll 6
        for (int i = 0; i < vectors; ++i) {
            Words word;
            std::memcpy(&word, p + i * index(sizeof word), sizeof word);
            sum[i] += word;
            sums[i] += sum[i];
        }
    }
    std::uint64_t value() const {
        std::uint64_t v = 0;
        for (int i = 0; i < vectors; ++i) {
            const Words both = sum[i] ^ (sums[i] << 1 | sums[i] >> 63);
            for (int lane = 0; lane < 2; ++lane) v = (v ^ both[lane]) * 0x9e3779b97f4a7c15u + 1;
        }
        return v;
    }
};

void walk(const View &array, index axis, const char *data, Hash &hash) {
    const index size = array.shape[axis], stride = array.strides[axis];
    if (axis == array.rank - 1 && stride == array.item) return hash.add(data, size * array.item);
    for (index i = 0; i < size; ++i, data += stride) {
        if (axis == array.rank - 1) {
            hash.add(data, array.item);
        } else {
            walk(array, axis + 1, data, hash);
        }
    }
}

} // namespace

std::uint64_t checksum(const View &array) {
    Hash hash;
    index bytes = array.item;
    for (index axis = 0; axis < array.rank; ++axis) bytes *= array.shape[axis];
    if (bytes == 0) return hash.value();
    if (array.contiguous || array.rank == 0) {
        hash.add(array.data, bytes);
    } else {
        walk(array, 0, array.data, hash);
    }
    return hash.value();
}

} // namespace rnnfast
