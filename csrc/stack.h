// A stack of layers with all the memory that its steps need: what a stream or a cell runs. The layers are the kernels
// of the table; nothing here depends on Python, on an instruction set or, seen from outside, on the dtype.
//
// A run of many steps goes through the layers block by block, so that what one layer hands to the next stays small.
// Rejected: a step kernel of its own beside the forward kernel (the same sums twice), keeping the state in the kernel's
// own padded rows (saves two copies of a row per step, and an interrupted run would leave it half-way).
#pragma once

#include <atomic>
#include <cstring>
#include <ctime>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"

namespace rnnfast {

// What one layer is made of, handed from the extension module that holds the kernels to the one that holds the streams.
struct KernelHandle {
    bool wide;          // double
    const void *kernel; // CellKernel<float> or <double>
    Kind kind;
    Sizes sizes;
    int (*threads)(int asked, double work_per_step, index steps, index batch); // how many to use
};

struct Run {
    index steps;
    const void *x;           // [T, B, I], or null: ids
    const std::int64_t *ids; // [T, B]
    index x_t, x_b;          // strides of x or ids in elements
    void *y;                 // [T, B, H]
    index y_t, y_b;
    const void *state[most_states]; // [L, B, H], null: zeros
    void *final_state[most_states]; // [L, B, H]; may be `state`
    int count;                      // of states
    Interrupt *interrupt;
};

class Stack {
    std::atomic_flag busy_ = ATOMIC_FLAG_INIT;

  public:
    virtual ~Stack() = default;
    // Adds the next layer; panels [panel_size] and pairs (bfloat16 weights, or null) must outlive the stack.
    virtual void add(const KernelHandle &, const void *panels, const std::uint32_t *pairs) = 0;
    virtual void reserve() = 0; // takes all memory; call once, after the last add
    virtual void run(const Run &) noexcept = 0;

    bool enter() { return !busy_.test_and_set(std::memory_order_acquire); } // false: another thread is inside
    void leave() { busy_.clear(std::memory_order_release); }
};

template <class T> class StackOf final : public Stack {
    struct Free {
        void operator()(void *p) const { ::operator delete(p, std::align_val_t(64)); }
    };
    using Memory = std::unique_ptr<void, Free>;
    struct Layer {
        const CellKernel<T> *kernel;
        Forward<T> call;
        double work; // multiply-adds of a step
        int (*threads)(int, double, index, index);
    };

    const index batch_, block_; // steps of a block
    const int asked_;           // threads
    int most_ = 1;
    std::vector<Layer> layers_;
    Memory scratch_, between_[2]; // of the kernels; from layer to layer [block][B][H]

    static Memory take(std::size_t bytes) { return Memory(::operator new(bytes, std::align_val_t(64))); }

  public:
    StackOf(index batch, index block, int threads) : batch_(batch), block_(block), asked_(threads) {}

    void add(const KernelHandle &handle, const void *panels, const std::uint32_t *pairs) override {
        const auto *const kernel = static_cast<const CellKernel<T> *>(handle.kernel);
        Forward<T> call{};
        call.kind = handle.kind;
        call.batch = batch_;
        call.sizes = handle.sizes;
        call.panels = static_cast<const T *>(panels);
        call.pairs = pairs;
        const Sizes s = handle.sizes;
        // Rejected: counting less of it in bfloat16, because two threads gave such steps 0.86 to 0.95 of the speed of
        // one in one run (1.4 to 1.8 times in three later ones; at slow times float32 beside it was slow as well).
        const double work = double(kernel->gates) * double(s.hidden) * double(s.hidden + s.input) * double(batch_);
        layers_.push_back({kernel, call, work, handle.threads});
    }

    void reserve() override {
        std::size_t bytes = 0;
        for (Layer &layer : layers_) {
            const int most = layer.threads(asked_, layer.work, block_, batch_);
            most_ = most > most_ ? most : most_;
            static const T some{}; // a state that is given takes more memory than none, ids no less than x
            for (const T *&state : layer.call.state) state = &some;
            layer.call.x.data = nullptr;
            layer.call.steps = block_;
            for (const int threads : {1, most_}) {
                layer.call.threads = threads;
                const std::size_t needed = layer.kernel->forward_bytes(layer.call);
                bytes = needed > bytes ? needed : bytes;
            }
        }
        scratch_ = take(bytes);
        const Sizes sizes = layers_[0].call.sizes;
        if (layers_.size() > 1) {
            for (Memory &memory : between_) {
                memory = take(sizeof(T) * std::size_t(block_ * batch_ * sizes.hidden));
            }
        }
    }

    void run(const Run &r) noexcept override {
        timespec polled{};
        for (index begin = 0; begin < r.steps; begin += block_) {
            const index steps = r.steps - begin < block_ ? r.steps - begin : block_;
            for (std::size_t l = 0; l < layers_.size(); ++l) {
                layer(r, l, begin, steps, begin == 0 ? r.state : r.final_state);
                if (r.interrupt && stopped(*r.interrupt, polled)) return;
            }
        }
    }

  private:
    // A kernel looks for Ctrl-C after 50 ms of its own time, which a block may never take; so the run looks too.
    static bool stopped(Interrupt &interrupt, timespec &polled) {
        if (__atomic_load_n(&interrupt.stop, __ATOMIC_RELAXED)) return true;
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (polled.tv_sec == 0) polled = now;
        const double elapsed = double(now.tv_sec - polled.tv_sec) + 1e-9 * double(now.tv_nsec - polled.tv_nsec);
        if (elapsed < 0.05) return false;
        polled = now;
        const bool stop = interrupt.poll(interrupt.context);
        if (stop) __atomic_store_n(&interrupt.stop, 1, __ATOMIC_RELAXED);
        return stop;
    }

    void layer(const Run &r, std::size_t l, index begin, index steps, const void *const *state) {
        Layer &layer = layers_[l];
        Forward<T> &call = layer.call;
        const index H = call.sizes.hidden, offset = index(l) * batch_ * H;
        call.steps = steps;
        const int threads = layer.threads(asked_, layer.work, steps, batch_);
        call.threads = threads < most_ ? threads : most_;
        call.interrupt = r.interrupt;
        call.memory = scratch_.get();
        if (l) {
            call.x = {static_cast<const T *>(between_[(l - 1) % 2].get()), batch_ * H, H};
        } else {
            call.x = {r.x ? static_cast<const T *>(r.x) + begin * r.x_t : nullptr, r.x_t, r.x_b};
            call.ids = {r.ids ? r.ids + begin * r.x_t : nullptr, r.x_t, r.x_b};
        }
        if (l + 1 < layers_.size()) {
            call.y[0] = {static_cast<T *>(between_[l % 2].get()), batch_ * H, H};
        } else {
            call.y[0] = {static_cast<T *>(r.y) + begin * r.y_t, r.y_t, r.y_b};
        }
        for (int s = 0; s < r.count; ++s) {
            call.state[s] = state[s] ? static_cast<const T *>(state[s]) + offset : nullptr;
            call.final_state[s] = static_cast<T *>(r.final_state[s]) + offset;
        }
        layer.kernel->forward(call);
        call.calls += steps;
    }
};

inline std::unique_ptr<Stack> make_stack(bool wide, index batch, index block, int threads) {
    if (wide) return std::make_unique<StackOf<double>>(batch, block, threads);
    return std::make_unique<StackOf<float>>(batch, block, threads);
}

} // namespace rnnfast
