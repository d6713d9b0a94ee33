// Which instruction set and how many threads; facts about the build; a checksum.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif
#include <pthread.h>
#include <sched.h>

#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "isa/dispatch.h"

namespace rnnfast::bindings {

namespace {

const char *names[max_isas];
int names_count = 0;
std::atomic<const char *> active{nullptr};
int openmp_threads = 1; // what OpenMP would use if nobody limited it
std::atomic<int> default_threads{1};
std::atomic<bool> forked{false};
// Below this many multiply-adds a second thread costs more than it saves (a fork and join is 5 to 10 us).
std::atomic<double> small_work{4e5};

std::string joined() {
    std::string text;
    for (int i = 0; i < names_count; ++i) text += (i ? ", " : "") + std::string(names[i]);
    return text;
}

const char *find(const std::string &name, const std::string &argument) {
    for (int i = 0; i < names_count; ++i) {
        if (name == names[i]) return names[i];
    }
    fail(argument, "one of " + joined() + " (what this build has and this CPU runs)", "'" + name + "'");
}

// What OpenMP gives a thread that nobody has limited: OMP_NUM_THREADS, else the CPUs that this process may use. A new
// thread is asked, because a limit (omp_set_num_threads, threadpoolctl) holds in the thread that set it, and rnnfast
// may be imported under one.
int threads_of_openmp() {
    int threads = 1;
#ifdef _OPENMP
    std::thread([&] { threads = omp_get_max_threads(); }).join();
#endif
    return threads;
}

void set_threads(py::int_ n) {
    const long value = n.cast<long>();
    if (value < 1 || value > 4096) fail("num_threads", "an integer in 1 .. 4096", std::to_string(value));
    default_threads = static_cast<int>(value);
}

void read_environment() {
    names_count = available(names);
    active = names[names_count - 1];
    if (const char *isa = std::getenv("RNNFAST_ISA"); isa && *isa)
        active = find(isa, "environment variable RNNFAST_ISA");
    default_threads = openmp_threads = threads_of_openmp();
    if (const char *text = std::getenv("RNNFAST_NUM_THREADS"); text && *text) {
        char *end = nullptr;
        const long n = std::strtol(text, &end, 10);
        if (*end || n < 1 || n > 4096)
            fail("environment variable RNNFAST_NUM_THREADS", "an integer in 1 .. 4096", text);
        default_threads = static_cast<int>(n);
    }
}

std::string openmp() {
#if defined(_OPENMP)
#if defined(__clang__)
    return "libomp (OpenMP " + std::to_string(_OPENMP) + ")";
#else
    return "libgomp (OpenMP " + std::to_string(_OPENMP) + ")";
#endif
#else
    return "none";
#endif
}

py::dict build_info() {
    py::dict info;
    info["version"] = RNNFAST_VERSION;
#if defined(__clang__)
    info["compiler"] = "Clang " __clang_version__;
#else
    info["compiler"] = "GCC " __VERSION__;
#endif
    info["openmp"] = openmp();
    return info;
}

// Sums of words and sums of these sums (Fletcher 1982), in lanes side by side: as fast as memory, and any single change
// or exchange shows. Six vectors of each are what SSE2 has registers for: 108 GB/s from L2, eight 49, four 65, an array
// of words 23 (GCC then keeps the sums in memory). Rejected: multiply-xor chains (3 % of a small layer's training).
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

void walk(const py::array &a, index axis, const char *data, Hash &hash) {
    const index rank = a.ndim();
    if (axis == rank) return hash.add(data, a.itemsize());
    if (axis == rank - 1 && a.strides(axis) == a.itemsize()) return hash.add(data, a.shape(axis) * a.itemsize());
    for (index i = 0; i < a.shape(axis); ++i) walk(a, axis + 1, data + i * a.strides(axis), hash);
}

std::uint64_t checksum(const py::array &a) {
    if (a.dtype().has_fields() || a.dtype().kind() == 'O') fail("array", "a numeric array", describe(a));
    Hash hash;
    if (a.size() == 0) return hash.value();
    const bool flat = (a.flags() & py::array::c_style) != 0;
    const auto *data = static_cast<const char *>(a.data());
    {
        const py::gil_scoped_release release;
        if (flat) {
            hash.add(data, a.nbytes());
        } else {
            walk(a, 0, data, hash);
        }
    }
    return hash.value();
}

// Seconds that a cache line takes from one core to another: two threads throw it to each other for a millisecond. 0
// where there is one thread.
double line_transfer() {
    double seconds = 0;
#ifdef _OPENMP
    if (threads_for(2, 1e300) < 2) return 0;
    using Clock = std::chrono::steady_clock;
    constexpr int over = -1;
    alignas(64) std::atomic<int> ball{0}; // how often it was thrown
#pragma omp parallel num_threads(2)
    if (omp_get_num_threads() == 2) {
        const int me = omp_get_thread_num();
        Clock::time_point begin{};
        for (int mine = me;; mine += 2) {
            int seen = ball.load(std::memory_order_acquire);
            for (int looks = 0; seen != mine && seen != over; ++looks) {
                if (looks > 1000) sched_yield(); // both may be on one core
                seen = ball.load(std::memory_order_acquire);
            }
            if (seen == over) break;
            if (me == 0 && mine % 256 == 0) {
                const auto now = Clock::now();
                if (mine == 256) begin = now; // before, the other had to wake
                const double elapsed = std::chrono::duration<double>(now - begin).count();
                if (mine > 256 && elapsed > 1e-3) {
                    seconds = elapsed / (mine - 256);
                    ball.store(over, std::memory_order_release);
                    break;
                }
            }
            ball.store(mine + 1, std::memory_order_release);
        }
    }
#endif
    return seconds;
}

} // namespace

const char *active_isa() { return active; }

bool step_is_small(double work) { return work < small_work / 8; }

std::string require_isa(const std::optional<std::string> &name) { return name ? find(*name, "isa") : active.load(); }

int threads_for(int asked, double work) {
    if (forked || work < small_work) return 1; // OpenMP's threads do not survive fork()
    const int wanted = asked > 0 ? asked : default_threads.load();
#ifdef _OPENMP
    if (const int limit = omp_get_max_threads(); limit < openmp_threads) return std::min(wanted, limit);
#endif
    return wanted;
}

void register_config(py::module_ &module) {
    read_environment();
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
    module.def(
        "isa_available", [] { return std::vector<std::string>(names, names + names_count); },
        "Instruction sets that this build has and this CPU runs, slowest first.");
    module.def("isa", [] { return std::string(active_isa()); }, "The instruction set that new kernels use.");
    module.def(
        "set_isa", [](const std::string &name) { active = find(name, "name"); }, py::arg("name"),
        "Choose the instruction set that kernels made from now on use.");
    module.def("build_info", build_info, "Version, compiler and OpenMP runtime.");
    module.def("get_num_threads", [] { return default_threads.load(); });
    module.def("set_num_threads", set_threads, py::arg("n"));
    module.def(
        "threads_for", threads_for, py::arg("asked"), py::arg("work"),
        "The most threads that a call of this many multiply-adds uses here and now; asked <= 0 asks for the default.");
    module.def(
        "set_small_work", [](double work) { small_work = work; }, py::arg("work"),
        "Calls of fewer multiply-adds run on one thread; 0 makes small tests run on several.");
    module.def("line_transfer", line_transfer, py::call_guard<py::gil_scoped_release>(),
               "Seconds that a cache line takes from one core to another; 0 where there is one thread.");
    module.def("checksum", checksum, py::arg("array"), "A 64-bit checksum of an array's content in logical order.");
}

} // namespace rnnfast::bindings
