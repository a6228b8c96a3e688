// y = x w^T for a handful of rows x: tokens of answers that are written side by side. Libraries arrange both matrices
// anew before they multiply, which pays for hundreds of rows. Here a few rows of w, widened once, meet all of x.
//
// A row's result doesn't depend on the other rows, nor on the number of threads: sums have one order.

#include "common.h"

namespace {

constexpr int SIDE = 4;                  // rows of w in a tile
constexpr int DEEP = W == 16 ? 6 : 3;    // rows of x in a tile: its sums, DEEP of x and one of w fill the registers
constexpr i64 CLOSE = 4608;              // numbers of w that lie in the first cache together, beside some of x

// y[m][o] = sum_d x[m][d] * w[o][d]; N rows of x, SIDE rows of w
template <int N>
INLINE void tile(const float* x, i64 ldx, const float* w, i64 ldw, i64 width, float* y, i64 ldy) {
    V acc[N * SIDE] = {};
    for (i64 d = 0; d < width; d += W) {
        V xs[N];
        EACH for (int n = 0; n < N; n++) xs[n] = load(x + n * ldx + d);
        EACH for (int o = 0; o < SIDE; o++) {
            const V v = load(w + o * ldw + d);
            EACH for (int n = 0; n < N; n++) acc[n * SIDE + o] += xs[n] * v;
        }
    }
    EACH for (int first = 0; first < N * SIDE; first += W) {
        V some[W];
        EACH for (int i = 0; i < W; i++) some[i] = first + i < N * SIDE ? acc[first + i] : V{};
        const V found = sums(some);
        EACH for (int i = 0; i < W; i++)
            if (first + i < N * SIDE) y[(first + i) / SIDE * ldy + (first + i) % SIDE] = found[i];
    }
}

template <class K>
void few_rows(int threads, i64 T, i64 O, i64 D, const float* x, const K* w, float* y) {
    const i64 block = std::max<i64>(1, CLOSE / D / SIDE) * SIDE;
    divided(threads, O, block, [&](int, i64 first, i64 last) {
        float* wide = scratch<0>(block * D);
        float* beyond = scratch<1>(DEEP * SIDE);  // what a tile finds for rows that w hasn't
        for (i64 o = first; o < last; o += block) {
            const i64 rows = std::min(block, last - o), lines = block * D * sizeof(K) / 64;
            for (i64 i = 0; i < rows * D; i += W) store(wide + i, load(w + o * D + i));
            const char* next = (const char*)(w + (o + rows) * D);
            i64 fetched = o + 2 * block <= last ? 0 : lines;
            auto meet = [&](auto count, i64 t) {
                constexpr int N = decltype(count)::value;
                for (const i64 end = (t + N) * lines / T; fetched < end; fetched++) __builtin_prefetch(next + 64 * fetched);
                for (i64 i = 0; i < rows; i += SIDE) {
                    const bool whole = i + SIDE <= rows;
                    float* to = whole ? y + t * O + o + i : beyond;
                    tile<N>(x + t * D, D, wide + i * D, D, D, to, whole ? O : SIDE);
                    for (int n = 0; !whole && n < N; n++)
                        std::memcpy(y + (t + n) * O + o + i, beyond + n * SIDE, sizeof(float) * (rows - i));
                }
            };
            i64 t = 0;
            for (; t + DEEP <= T; t += DEEP) meet(std::integral_constant<int, DEEP>(), t);
            for (; t < T; t++) meet(std::integral_constant<int, 1>(), t);
        }
    });
}

}  // namespace

// narrow: w is bf16. D: a multiple of 16.
extern "C" void sapwood_few_rows(int threads, i64 T, i64 O, i64 D, const float* x, const void* w, int narrow,
                                 float* y) {
    if (narrow)
        few_rows(threads, T, O, D, x, (const bf16*)w, y);
    else
        few_rows(threads, T, O, D, x, (const float*)w, y);
}
