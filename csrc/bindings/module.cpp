// rnnfast._core: a table of contents. One file per subject; arguments.cpp checks what comes in.
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "The compiled kernels of rnnfast. Private: use the layers and cells of the package.";
    rnnfast::bindings::register_config(module);
    rnnfast::bindings::register_kernels(module);
    rnnfast::bindings::register_dense(module);
    rnnfast::bindings::register_probes(module);
}
