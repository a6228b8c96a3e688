// RMSNorm (arXiv 1910.07467, equation 4), and its gradient with respect to the input.

#include <cmath>

#include "common.h"

namespace {

template <class A, class K>
void norm_forward(int threads, i64 T, i64 D, const A* x, const float* weight, float eps, A* y, K* kept, float* rstd) {
    divided(threads, T, 1, [&](int, i64 first, i64 last) {
        for (i64 t = first; t < last; t++) {
            const A* from = x + t * D;
            V square{};
            for (i64 d = 0; d < D; d += W) {
                V v = load(from + d);
                square += v * v;
                if (kept) store(kept + t * D + d, v);
            }
            const float r = 1.0f / std::sqrt(total(square) / (float)D + eps);
            rstd[t] = r;
            for (i64 d = 0; d < D; d += W) store(y + t * D + d, load(from + d) * r * load(weight + d));
        }
    });
}

template <class A, class K>
void norm_backward(int threads, i64 T, i64 D, const A* grad, const K* kept, const float* weight, const float* rstd,
                   A* grad_x) {
    divided(threads, T, 1, [&](int, i64 first, i64 last) {
        for (i64 t = first; t < last; t++) {
            const float r = rstd[t];
            V product{};
            for (i64 d = 0; d < D; d += W)
                product += load(grad + t * D + d) * load(weight + d) * load(kept + t * D + d);
            const float inner = total(product) / (float)D * r * r;
            for (i64 d = 0; d < D; d += W) {
                V g = load(grad + t * D + d) * load(weight + d);
                store(grad_x + t * D + d, (g - load(kept + t * D + d) * inner) * r);
            }
        }
    });
}

}  // namespace

extern "C" {

void sapwood_norm_forward(int form, int threads, i64 T, i64 D, const void* x, const float* weight, float eps, void* y,
                          void* kept, float* rstd) {
    BY_FORM(norm_forward(threads, T, D, (const A*)x, weight, eps, (A*)y, (K*)kept, rstd))
}

void sapwood_norm_backward(int form, int threads, i64 T, i64 D, const void* grad, const void* kept,
                           const float* weight, const float* rstd, void* grad_x) {
    BY_FORM(norm_backward(threads, T, D, (const A*)grad, (const K*)kept, weight, rstd, (A*)grad_x))
}
}

// Did a thread get no memory since this was asked last? Then what a kernel wrote is not its result.
extern "C" int sapwood_starved() { return starved.exchange(0); }
