// A stack of layers with all the memory that its steps need: what a stream or a cell runs. The layers are the kernels
// of the table; nothing here depends on Python, on an instruction set or, seen from outside, on the dtype.
//
// A run of many steps goes through the layers block by block, so that what one layer hands to the next stays small.
// Rejected: a step kernel of its own beside the forward kernel (the same sums twice), keeping the state in the kernel's
// own padded rows (saves two copies of a row per step, and an interrupted run would leave it half-way).
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "kernels.h"
#include "parallel/interrupt.h"
#include "parallel/memory.h"
#include "parallel/system.h"

namespace rnnfast {

// What one layer is made of, handed from the extension module that holds the kernels to the one that holds the streams.
struct KernelHandle {
    bool wide;          // double
    const void *kernel; // CellKernel<float> or <double>
    Kind kind;
    Sizes sizes;
    int states;                // how many
    index widths[most_states]; // of each; that of the first is the output's
    double work;               // multiply-adds of a row's step
    index parts;               // into how many the units can be partitioned
    int (*threads)(int asked, double work_per_step, index steps, index batch, index parts); // how many to use
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
    const void *given[most_given];  // of described cells, [T, B, width] or [T, B]; each layer reads them all
    index given_t[most_given], given_b[most_given];
    int givens; // how many
    Interrupt *interrupt;
};

// The number of this process in the line of its ancestors since the first stack was made, from 1.
inline std::atomic<unsigned> generation{1};
inline void watch_forks() {
    static const bool once = (after_fork([] { ++generation; }), true);
    (void)once;
}

class Stack {
    std::atomic<unsigned> inside_{0}; // the generation of the thread that is inside; 0: none

  public:
    virtual ~Stack() = default;
    // Adds the next layer; panels [panel_size] and pairs (bfloat16 weights, or null) must outlive the stack.
    virtual void add(const KernelHandle &, const void *panels, const std::uint32_t *pairs) = 0;
    // Gives a layer other weights of the same sizes.
    virtual void replace(std::size_t layer, const void *panels, const std::uint32_t *pairs) = 0;
    virtual void reserve() = 0; // takes all memory; call once, after the last add
    virtual void run(const Run &) noexcept = 0;

    // False: another thread is inside. One that was inside at a fork has stayed in the parent.
    bool enter() {
        const unsigned now = generation.load(std::memory_order_relaxed);
        unsigned found = 0;
        if (inside_.compare_exchange_strong(found, now, std::memory_order_acquire)) return true;
        return found != now && inside_.compare_exchange_strong(found, now, std::memory_order_acquire);
    }
    void leave() { inside_.store(0, std::memory_order_release); }
};

template <class T> class StackOf final : public Stack {
    struct Layer {
        const CellKernel<T> *kernel;
        Forward<T> call;
        KernelHandle handle;
        double work; // multiply-adds of a step
    };

    const index batch_, block_; // steps of a block
    const int asked_;           // threads
    int most_ = 1;
    std::vector<Layer> layers_;
    Memory scratch_, between_[2]; // of the kernels; from layer to layer [block][B][H]

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
        // Rejected: counting less of it in bfloat16 (two threads were slower than one in one measurement, and faster in
        // three later ones).
        layers_.push_back({kernel, call, handle, handle.work * double(batch_)});
    }

    void replace(std::size_t layer, const void *panels, const std::uint32_t *pairs) override {
        layers_[layer].call.panels = static_cast<const T *>(panels);
        layers_[layer].call.pairs = pairs;
    }

    void reserve() override {
        std::size_t bytes = 0;
        for (Layer &layer : layers_) {
            const int most = layer.handle.threads(asked_, layer.work, block_, batch_, layer.handle.parts);
            most_ = most > most_ ? most : most_;
            static const T some{}; // a state that is given takes more memory than none
            for (const T *&state : layer.call.state) state = &some;
            layer.call.steps = block_;
            for (const int threads : {1, most_}) {
                for (const T *const x : {&some, static_cast<const T *>(nullptr)}) { // null: ids
                    layer.call.threads = threads;
                    layer.call.x.data = x;
                    const std::size_t needed = layer.kernel->forward_bytes(layer.call);
                    bytes = needed > bytes ? needed : bytes;
                }
            }
        }
        scratch_ = Memory(bytes);
        if (layers_.size() > 1) {
            for (Memory &memory : between_) {
                memory = Memory(sizeof(T) * std::size_t(block_ * batch_ * layers_[0].handle.widths[0]));
            }
        }
    }

    void run(const Run &r) noexcept override {
        Poll poll; // a kernel looks after 50 ms of its own time, which a block may never take; so the run looks too
        for (index begin = 0; begin < r.steps; begin += block_) {
            const index steps = r.steps - begin < block_ ? r.steps - begin : block_;
            for (std::size_t l = 0; l < layers_.size(); ++l) {
                layer(r, l, begin, steps, begin == 0 ? r.state : r.final_state);
                if (r.interrupt && stopped(*r.interrupt, poll)) return;
            }
        }
    }

  private:
    static bool stopped(Interrupt &interrupt, Poll &poll) {
        if (!is_stopped(interrupt)) poll.look(interrupt);
        return is_stopped(interrupt);
    }

    void layer(const Run &r, std::size_t l, index begin, index steps, const void *const *state) {
        Layer &layer = layers_[l];
        Forward<T> &call = layer.call;
        const index H = layer.handle.widths[0];
        call.steps = steps;
        const int threads = layer.handle.threads(asked_, layer.work, steps, batch_, layer.handle.parts);
        call.threads = threads < most_ ? threads : most_;
        call.interrupt = r.interrupt;
        call.memory = scratch_.data();
        if (l) {
            call.x = {static_cast<const T *>(between_[(l - 1) % 2].data()), batch_ * H, H};
        } else {
            call.x = {r.x ? static_cast<const T *>(r.x) + begin * r.x_t : nullptr, r.x_t, r.x_b};
            call.ids = {r.ids ? r.ids + begin * r.x_t : nullptr, r.x_t, r.x_b};
        }
        if (l + 1 < layers_.size()) {
            call.y[0] = {static_cast<T *>(between_[l % 2].data()), batch_ * H, H};
        } else {
            call.y[0] = {static_cast<T *>(r.y) + begin * r.y_t, r.y_t, r.y_b};
        }
        for (int g = 0; g < r.givens; ++g) {
            call.given[g] = {static_cast<const T *>(r.given[g]) + begin * r.given_t[g], r.given_t[g], r.given_b[g]};
        }
        for (int s = 0; s < layer.handle.states; ++s) {
            const index offset = index(l) * batch_ * layer.handle.widths[s];
            call.state[s] = state[s] ? static_cast<const T *>(state[s]) + offset : nullptr;
            call.final_state[s] = static_cast<T *>(r.final_state[s]) + offset;
        }
        layer.kernel->forward(call);
        call.calls += steps;
    }
};

inline std::unique_ptr<Stack> make_stack(bool wide, index batch, index block, int threads) {
    watch_forks();
    if (wide) return std::make_unique<StackOf<double>>(batch, block, threads);
    return std::make_unique<StackOf<float>>(batch, block, threads);
}

} // namespace rnnfast
