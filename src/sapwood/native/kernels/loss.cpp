// Cross-entropy over a part of the vocabulary: logits to softmax weights, row by row, where the streaming softmax
// (arXiv 1805.02867) stands after the parts before.

#include <cmath>

#include "common.h"

namespace {

INLINE float number(float x) { return x; }
INLINE float number(bf16 x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

// What the head does to a product, and its slope: x = cap(product) * scale.
struct Finish {
    float softcap, scale;  // softcap 0: none

    INLINE V value(V x) const {
        if (softcap != 0) x = tanh(x) * softcap;
        return x * scale;
    }
    INLINE V slope(V x) const {
        const V t = tanh(x);
        return 1.0f - t * t;
    }
    INLINE V tanh(V x) const { return 1.0f - 2.0f / (exp_of(x * (2.0f / softcap)) + 1.0f); }
};

template <class A>
void read_logits(int threads, i64 N, i64 size, A* logits, const int64_t* targets, i64 start, Finish finish, bool slopes,
                 float* top, float* sum, float* label, float* slope, float* shrink) {
    const i64 whole = size / W * W;
    divided(threads, N, 1, [&](int, i64 first, i64 last) {
        for (i64 n = first; n < last; n++) {
            A* row = logits + n * size;
            A rest[W] = {};  // the last columns, where they are fewer than a vector
            std::memcpy(rest, row + whole, (size - whole) * sizeof(A));
            const VI beyond = counted() >= (int32_t)(size - whole);
            const V none = splat(-INFINITY);

            V most = splat(top[n]);  // a NaN is lost here, and found again in the sum
            auto compare = [&](V x) { most = x > most ? x : most; };
            for (i64 v = 0; v < whole; v += W) compare(finish.value(load(row + v)));
            if (whole < size) compare(beyond ? none : finish.value(load(rest)));
            float new_top = most[0];
            for (int i = 1; i < W; i++) new_top = std::max(new_top, most[i]);

            const i64 own = targets[n] - start;
            const bool inside = own >= 0 && own < size;
            if (inside) {
                const V x = splat(number(row[own]));
                label[n] = finish.value(x)[0];
                if (finish.softcap != 0) slope[n] = finish.slope(x)[0];
            }

            V total_lanes{};
            auto weigh = [&](V x, V out) {
                const V e = exp_of(out - new_top);
                total_lanes += e;
                return finish.softcap != 0 && slopes ? e * finish.slope(x) : e;
            };
            for (i64 v = 0; v < whole; v += W) {
                const V x = load(row + v), w = weigh(x, finish.value(x));
                if (slopes) store(row + v, w);
            }
            if (whole < size) {
                const V x = load(rest), w = weigh(x, beyond ? none : finish.value(x));
                if (slopes) {
                    store(rest, w);
                    std::memcpy(row + whole, rest, (size - whole) * sizeof(A));
                }
            }
            if (slopes && inside) row[own] = A{};
            shrink[n] = exp_of(splat(top[n] - new_top))[0];
            sum[n] = sum[n] * shrink[n] + total(total_lanes);
            top[n] = new_top;
        }
    });
}

}  // namespace

extern "C" void sapwood_read_logits(int form, int threads, i64 N, i64 size, void* logits, const int64_t* targets,
                                    i64 start, float softcap, float scale, int slopes, float* top, float* sum,
                                    float* label, float* slope, float* shrink) {
    const Finish finish{softcap, scale};
    if (form == 2)
        read_logits(threads, N, size, (bf16*)logits, targets, start, finish, slopes != 0, top, sum, label, slope, shrink);
    else
        read_logits(threads, N, size, (float*)logits, targets, start, finish, slopes != 0, top, sum, label, slope,
                    shrink);
}
