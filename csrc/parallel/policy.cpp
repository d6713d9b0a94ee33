#include "parallel/policy.h"

#include "parallel/system.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rnnfast {

namespace {

int openmp_threads = 1; // what OpenMP would use if nobody limited it
std::atomic<int> wanted_by_default{1};
std::atomic<bool> alone{false}; // OpenMP's threads are gone: after fork(), and when the process ends
std::atomic<int> cpus{1}, refused{0};
std::atomic<std::int64_t> crowded_until{0}; // on the clock of nanoseconds()
std::atomic<std::int64_t> patience{1'000'000};
// A fork and a join cost 5 to 10 us: below this many multiply-adds a second thread costs more than it saves.
std::atomic<double> small_work{4e5};

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

// OpenMP ends the process where the system refuses a thread (a limit on processes or on memory). So those that a call
// is to have and that its thread has not had yet are tried first.
int startable(int threads) {
    thread_local int started = 1;
    if (threads <= started) return threads;
    std::vector<std::thread> tried;
    std::atomic<bool> enough{false};
    try {
        while (static_cast<int>(tried.size()) < threads - started) tried.emplace_back([&] { enough.wait(false); });
    } catch (const std::exception &) { // no more threads, or no memory to note one
        refused = started + static_cast<int>(tried.size());
    }
    enough = true;
    enough.notify_all();
    const int found = started + static_cast<int>(tried.size());
    for (std::thread &one : tried) one.join();
    if (found == threads) started = threads;
    return found;
}

bool crowded() {
    if (crowded_until == 0 || small_work == 0) return false;
    if (nanoseconds() < crowded_until) return true;
    crowded_until = 0;
    return false;
}

// Too little work for threads that wait for each other at each step.
bool step_is_small(double work) { return work < small_work / 8; }

} // namespace

void find_threads() {
    wanted_by_default = openmp_threads = cpus = threads_of_openmp();
    after_fork([] { alone = true; });
    std::atexit([] { alone = true; }); // a daemon may go on while LLVM's OpenMP takes itself down
}

int default_threads() { return wanted_by_default; }
void set_default_threads(int threads) { wanted_by_default = threads; }
void set_cpus(int count) { cpus = count; }
void set_small_work(double work) { small_work = work; }

int threads_for(int asked, double work) {
    if (alone || work < small_work || crowded()) return 1;
    int threads = wanted_by_default;
    if (asked > 0) threads = std::min(asked, std::max(threads, cpus.load()));
#ifdef _OPENMP
    if (const int limit = omp_get_max_threads(); limit < openmp_threads) threads = std::min(threads, limit);
#endif
    return startable(threads);
}

// Rows are partitioned where each thread has two or more (Share in recurrence/masks.h looks at that): such threads
// never wait. Units, where the longest share would else be more than twice as long: each thread reads a part of the
// weights, and all wait for each other after each step. So a row's work counts half there, and each step must be worth
// its barrier. docs/lab/cpu-tuning.md has the times.
int threads_for_steps(int asked, double work_per_step, index steps, index batch, index parts) {
    const double work = work_per_step * static_cast<double>(steps);
    const index threads = threads_for(asked, 2 * work);
    const index by_rows = std::min(threads, std::max<index>(batch / 2, 1)), by_units = std::min(threads, parts);
    const auto longest = [](index count, index shares) { return (count + shares - 1) / shares; };
    const index rows = longest(batch, by_rows) * parts, units = batch * longest(parts, by_units); // the longest shares
    const bool small = step_is_small(work_per_step);
    if (by_rows > 1 && (small || rows <= 2 * units)) return threads_for(static_cast<int>(by_rows), work);
    return small ? 1 : static_cast<int>(by_units);
}

bool is_crowd(std::int64_t lost, std::int64_t start, int threads) {
    if (patience == 0) return true;
    if (lost <= patience || small_work == 0) return false; // tests want their threads
    const std::int64_t elapsed = nanoseconds() - start;
    return lost > (threads - 1) * (elapsed - elapsed / 5);
}

void set_patience(std::int64_t lost) { patience = lost; }

void note_crowd() { crowded_until = nanoseconds() + 1'000'000'000; }

int refused_threads() { return refused.exchange(0); }

} // namespace rnnfast
