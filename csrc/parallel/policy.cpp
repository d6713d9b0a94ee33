#include "parallel/policy.h"

#include "parallel/system.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rnnfast {

namespace {

int openmp_threads = 1; // what OpenMP would use if nobody limited it
std::atomic<int> wanted_by_default{1};
std::atomic<bool> forked{false};
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
    after_fork([] { forked = true; });
}

int default_threads() { return wanted_by_default; }
void set_default_threads(int threads) { wanted_by_default = threads; }
void set_cpus(int count) { cpus = count; }
void set_small_work(double work) { small_work = work; }

int threads_for(int asked, double work) {
    if (forked || work < small_work || crowded()) return 1; // OpenMP's threads do not survive fork()
    int threads = wanted_by_default;
    if (asked > 0) threads = std::min(asked, std::max(threads, cpus.load()));
#ifdef _OPENMP
    if (const int limit = omp_get_max_threads(); limit < openmp_threads) threads = std::min(threads, limit);
#endif
    return startable(threads);
}

// Few rows are partitioned by units: each thread reads a part of the weights, and all wait for each other after each
// step. So a row's work counts half, and each step must be worth its barrier. docs/lab/cpu-tuning.md has the times.
// Half as many threads that each have rows of their own and never wait are better.
int threads_for_steps(int asked, double work_per_step, index steps, index batch, index blocks) {
    const double work = work_per_step * static_cast<double>(steps);
    const int threads = threads_for(asked, 2 * work);
    if (batch >= 2 * threads) return threads_for(asked, work);
    const int by_rows = static_cast<int>(batch / 2);
    if (by_rows > 1 && (2 * by_rows >= threads || step_is_small(work_per_step))) return threads_for(by_rows, work);
    if (step_is_small(work_per_step)) return 1;
    return static_cast<int>(std::min<index>(threads, blocks));
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
