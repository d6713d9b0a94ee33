// The heads' affine layer.
#include "linalg/dense.h"

namespace rnnfast::RNNFAST_ISA {

template <class T> void run_dense_forward(const DenseCall<T> &call) { Dense<T>::forward(call); }
template <class T> void run_dense_backward(const DenseCall<T> &call) { Dense<T>::backward(call); }

template void run_dense_forward<RNNFAST_REAL>(const DenseCall<RNNFAST_REAL> &);
template void run_dense_backward<RNNFAST_REAL>(const DenseCall<RNNFAST_REAL> &);

} // namespace rnnfast::RNNFAST_ISA
