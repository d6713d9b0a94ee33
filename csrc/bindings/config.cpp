// Which instruction set and how many threads; facts about the build.
#include <atomic>
#include <cstdlib>

#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "isa/dispatch.h"
#include "parallel/policy.h"
#include "sum_order.h"

namespace rnnfast::bindings {

namespace {

const char *names[max_isas];
int names_count = 0;
std::atomic<const char *> active{nullptr};

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

void set_threads(py::int_ n) {
    const long value = n.cast<long>();
    if (value < 1 || value > most_threads) fail("num_threads", "an integer in 1 .. 4096", std::to_string(value));
    set_default_threads(static_cast<int>(value));
}

void read_environment() {
    names_count = available(names);
    active = names[names_count - 1];
    if (const char *isa = std::getenv("RNNFAST_ISA"); isa && *isa)
        active = find(isa, "environment variable RNNFAST_ISA");
    find_threads();
    if (const char *text = std::getenv("RNNFAST_NUM_THREADS"); text && *text) {
        char *end = nullptr;
        const long n = std::strtol(text, &end, 10);
        if (*end || n < 1 || n > most_threads)
            fail("environment variable RNNFAST_NUM_THREADS", "an integer in 1 .. 4096", text);
        set_default_threads(static_cast<int>(n));
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

} // namespace

const char *active_isa() { return active; }

std::string require_isa(const std::optional<std::string> &name) { return name ? find(*name, "isa") : active.load(); }

void warn_of_refused_threads() {
    const int threads = refused_threads();
    if (threads == 0) return;
    const std::string message =
        "num_threads: the system refuses more threads; the call goes on with " + std::to_string(threads);
    if (PyErr_WarnEx(PyExc_RuntimeWarning, message.c_str(), 1) < 0) throw py::error_already_set();
}

void register_config(py::module_ &module) {
    read_environment();
    module.def(
        "isa_available", [] { return std::vector<std::string>(names, names + names_count); },
        "Instruction sets that this build has and this CPU runs, slowest first.");
    module.def("isa", [] { return std::string(active_isa()); }, "The instruction set that new kernels use.");
    module.def(
        "set_isa", [](const std::string &name) { active = find(name, "name"); }, py::arg("name"),
        "Choose the instruction set that kernels made from now on use.");
    module.def("build_info", build_info, "Version, compiler and OpenMP runtime.");
    module.def("get_num_threads", default_threads);
    module.def("set_num_threads", set_threads, py::arg("n"));
    module.def(
        "threads_for", threads_for, py::arg("asked"), py::arg("work"),
        "The most threads that a call of this many multiply-adds uses here and now; asked <= 0 asks for the default.");
    module.def("threads_for_steps", threads_for_steps, py::arg("asked"), py::arg("work_per_step"), py::arg("steps"),
               py::arg("batch"), py::arg("parts"),
               "The threads of a recurrent call whose units can be partitioned into so many parts.");
    module.def(
        "section_steps", [](index batch) { return section_steps(batch); }, py::arg("batch"),
        "The steps of a section of the parameters' gradients.");
    module.def("set_cpus", set_cpus, py::arg("cpus"),
               "The CPUs that calls may use, however many threads they ask for.");
    module.def(
        "set_patience", set_patience, py::arg("lost"),
        "The nanoseconds that a call's threads may lose with waiting before the rest is left to one; 0, for tests: "
        "they always leave it.");
    module.def("set_small_work", set_small_work, py::arg("work"),
               "Calls of fewer multiply-adds run on one thread; 0 makes small tests run on several.");
}

} // namespace rnnfast::bindings
