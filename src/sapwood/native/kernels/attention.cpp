// Attention over a pack of segments, and rotary positions.
//
// A block is up to a few dozen queries of one segment, all heads of a group; its keys are the segment's chain: its
// ancestors and itself, in order of position, so that key j stands at position j. Scores of a block lie in the second
// cache; nothing of them is kept: the backward pass computes them again from each row's log of its sum.
// Source of the gradient: FlashAttention-2 (arXiv 2307.08691), section 3.1.

#include <cmath>
#include <type_traits>

#include "common.h"

namespace {

struct Heads {  // [heads, T, D], any order in memory but D's
    const void* data;
    i64 head, token;  // strides

    template <class N>
    INLINE const N* row(i64 h, i64 t) const {
        return (const N*)data + h * head + t * token;
    }
};

struct Blocks {  // of each: first token, queries, position of the first, where its chain begins in `chains`
    const i64* blocks;
    i64 count;
    const i64* chains;

    INLINE const i64* of(i64 b) const { return blocks + 4 * b; }
};

struct Rule {
    float scale, softcap;  // softcap 0: none
    i64 window;            // 0: none

    INLINE i64 first_key(i64 position) const { return window ? std::max<i64>(0, position - window + 1) : 0; }
};

INLINE i64 padded(i64 n) { return (n + W - 1) / W * W; }
// Length of a row in memory: an odd number of cache lines, or a column's would all fall into a few places of a cache.
INLINE i64 stride_of(i64 width) { return ((width + LINE - 1) / LINE | 1) * LINE; }

// c[r][..] = or += sum_k a[r * ra + k * ca] * b[k][..]; R rows of C vectors
template <int R, int C>
INLINE void tile(const float* a, i64 ra, i64 ca, const float* b, i64 ldb, i64 count, float* c, i64 ldc, bool add) {
    V acc[R][C];
    EACH for (int r = 0; r < R; r++)
        EACH for (int v = 0; v < C; v++) acc[r][v] = add ? load(c + r * ldc + v * W) : V{};
    for (i64 k = 0; k < count; k++) {
        V bs[C];
        EACH for (int v = 0; v < C; v++) bs[v] = load(b + k * ldb + v * W);
        EACH for (int r = 0; r < R; r++) {
            V spread = splat(a[r * ra + k * ca]);
            EACH for (int v = 0; v < C; v++) acc[r][v] += spread * bs[v];
        }
    }
    EACH for (int r = 0; r < R; r++)
        EACH for (int v = 0; v < C; v++) store(c + r * ldc + v * W, acc[r][v]);
}

template <int R>
INLINE void strip(const float* a, i64 ra, i64 ca, const float* b, i64 ldb, i64 count, float* c, i64 ldc, i64 width,
                  bool add) {
    i64 n = 0;
    for (; n + MOST * W <= width; n += MOST * W) tile<R, MOST>(a, ra, ca, b + n, ldb, count, c + n, ldc, add);
    for (; n < width; n += W) tile<R, 1>(a, ra, ca, b + n, ldb, count, c + n, ldc, add);
}

// body(rows, first) over `count` rows, four at a time
template <class Body>
INLINE void in_rows(i64 count, Body body) {
    i64 r = 0;
    for (; r + 4 <= count; r += 4) body(std::integral_constant<int, 4>(), r);
    for (; r < count; r++) body(std::integral_constant<int, 1>(), r);
}

// to[d][j] = from[j][d]; both padded to whole vectors with whatever is there
INLINE void transpose(const float* from, i64 rows, i64 width, float* to, i64 ldt) {
    for (i64 j = 0; j < rows; j += W)
        for (i64 d = 0; d < width; d += W) {
            V x[W];
            EACH for (int i = 0; i < W; i++) x[i] = load(from + std::min(j + i, rows - 1) * width + d);
            transpose_tile(x);
            EACH for (int i = 0; i < W; i++) store(to + (d + i) * ldt + j, x[i]);
        }
}

template <class N>
INLINE void gather(const Heads& from, i64 head, const i64* tokens, i64 first, i64 count, i64 D, float factor,
                   float* to) {
    for (i64 j = 0; j < count; j++) {
        const N* row = from.row<N>(head, tokens ? tokens[j] : first + j);
        for (i64 d = 0; d < D; d += W) store(to + j * D + d, load(row + d) * factor);
    }
}

INLINE V lanes(i64 from) { return __builtin_convertvector(counted(), V) + (float)from; }

// Scores of one row as they enter the softmax, -infinity where a key isn't seen; slope: of the soft cap.
INLINE void capped(float* s, float* slope, i64 width, i64 first, i64 last, float softcap) {
    const V nothing = splat(-INFINITY);
    for (i64 j = 0; j < width; j += W) {
        V x = load(s + j);
        if (softcap != 0) {
            V tanh = 1.0f - 2.0f / (exp_of(x * (2.0f / softcap)) + 1.0f);
            x = tanh * softcap;
            if (slope) store(slope + j, 1.0f - tanh * tanh);
        }
        V at = lanes(j);
        VI seen = (at >= (float)first) & (at <= (float)last);
        store(s + j, seen ? x : nothing);
    }
}

// units of work for each thread: as equal a share of the scores as whole blocks allow
struct Shares {
    std::vector<i64> first;
    Shares(const Blocks& blocks, i64 kv, int threads) {
        std::vector<double> until(blocks.count * kv + 1, 0.0);
        for (i64 u = 0; u < blocks.count * kv; u++) {
            const i64* b = blocks.of(u % blocks.count);
            until[u + 1] = until[u] + (double)b[1] * (b[2] + b[1]) + 64;
        }
        for (int t = 0; t <= threads; t++)
            first.push_back(std::lower_bound(until.begin(), until.end(), until.back() * t / threads) - until.begin());
        first[threads] = blocks.count * kv;
    }
};

// body(rows, first row, first key, last key) for the keys first .. last, a part of them after the other: what a part's
// rows read again and again stays in the second cache.
template <class Body>
INLINE void in_parts(i64 first, i64 last, i64 count, Body body) {
    constexpr i64 PART = 512;
    for (i64 from = first; from < last; from += PART)
        in_rows(count, [&](auto rows, i64 i) { body(rows, i, from, std::min(last, from + PART)); });
}

template <class A>
void attention_forward(int threads, i64 H, i64 KV, i64 T, i64 D, Heads q, Heads k, Heads v, Blocks blocks, Rule rule,
                       A* out, float* logs) {
    const i64 G = H / KV;
    Shares shares(blocks, KV, threads);
    each_part(threads, [&](int part) {
        for (i64 u = shares.first[part]; u < shares.first[part + 1]; u++) {
            const i64 *b = blocks.of(u % blocks.count), kv = u / blocks.count;
            const i64 start = b[0], L = b[1], at = b[2], K = at + L, width = padded(K), ld = stride_of(width);
            const i64* chain = blocks.chains + b[3];
            float* keys = scratch<10>(K * D);
            float* across = scratch<11>(D * ld);
            float* values = scratch<12>(K * D);
            float* queries = scratch<13>(L * D);
            float* scores = scratch<14>(L * ld);
            float* result = scratch<15>(L * D);
            float* factors = scratch<22>(L);
            gather<A>(k, kv, chain, 0, K, D, 1.0f, keys);
            transpose(keys, K, D, across, ld);
            gather<A>(v, kv, chain, 0, K, D, 1.0f, values);
            const i64 lowest = rule.first_key(at) / W * W;
            for (i64 h = kv * G; h < (kv + 1) * G; h++) {
                gather<A>(q, h, nullptr, start, L, D, rule.scale, queries);
                in_parts(lowest, width, L, [&](auto rows, i64 i, i64 from, i64 to) {
                    constexpr int R = decltype(rows)::value;
                    const i64 low = std::max(from, rule.first_key(at + i) / W * W);
                    const i64 high = std::min(to, padded(at + i + R));
                    if (low >= high) return;
                    strip<R>(queries + i * D, D, 1, across + low, ld, D, scores + i * ld + low, ld, high - low, false);
                });
                in_rows(L, [&](auto rows, i64 i) {
                    constexpr int R = decltype(rows)::value;
                    const i64 low = rule.first_key(at + i) / W * W, wide = padded(at + i + R);
                    for (int r = 0; r < R; r++) {
                        float* row = scores + (i + r) * ld;
                        const i64 position = at + i + r;
                        capped(row + low, nullptr, wide - low, rule.first_key(position) - low, position - low,
                               rule.softcap);
                        V top = splat(-INFINITY);
                        for (i64 j = low; j < wide; j += W) {
                            V x = load(row + j);
                            top = x > top ? x : top;
                        }
                        float most = top[0];
                        for (int l = 1; l < W; l++) most = std::max(most, top[l]);
                        V sum{};
                        for (i64 j = low; j < wide; j += W) {
                            V p = exp_of(load(row + j) - most);
                            sum += p;
                            store(row + j, p);
                        }
                        const float all = total(sum);
                        factors[i + r] = 1.0f / all;
                        logs[h * T + start + i + r] = most + std::log(all);
                    }
                });
                in_parts(lowest, K, L, [&](auto rows, i64 i, i64 from, i64 to) {
                    constexpr int R = decltype(rows)::value;
                    const i64 own = rule.first_key(at + i) / W * W, low = std::max(from, own);
                    const i64 high = std::min(to, at + i + R);
                    if (low >= high) return;
                    strip<R>(scores + i * ld + low, ld, 1, values + low * D, D, high - low, result + i * D, D, D,
                             low > own);
                });
                for (i64 i = 0; i < L; i++) {
                    A* to = out + ((start + i) * H + h) * D;
                    for (i64 d = 0; d < D; d += W) store(to + d, load(result + i * D + d) * factors[i]);
                }
            }
        }
    });
}

template <class A, class K_>
void attention_backward(int threads, i64 H, i64 KV, i64 T, i64 D, Heads grad, Heads q, Heads k, Heads v,
                        const float* logs, Blocks blocks, Rule rule, A* grad_q, A* grad_k, A* grad_v, float* parts) {
    const i64 G = H / KV, size = KV * T * D;
    Shares shares(blocks, KV, threads);
    each_part(threads, [&](int part) {
        float* all_k = parts + 2 * size * part;
        std::memset(all_k, 0, sizeof(float) * 2 * size);
        float* all_v = all_k + size;
        for (i64 u = shares.first[part]; u < shares.first[part + 1]; u++) {
            const i64 *b = blocks.of(u % blocks.count), kv = u / blocks.count;
            const i64 start = b[0], L = b[1], at = b[2], K = at + L, width = padded(K), ld = stride_of(width);
            const i64* chain = blocks.chains + b[3];
            float* keys = scratch<10>(K * D);
            float* keys_across = scratch<11>(D * ld);
            float* values = scratch<12>(K * D);
            float* values_across = scratch<16>(D * ld);
            float* queries = scratch<13>(L * D);
            float* grads = scratch<17>(L * D);
            float* p = scratch<14>(L * ld);
            float* ds = scratch<18>(L * ld);
            float* slope = rule.softcap != 0 ? scratch<19>(width) : nullptr;
            float* result = scratch<15>(L * D);
            float* own_k = scratch<20>(K * D);
            float* own_v = scratch<21>(K * D);
            gather<K_>(k, kv, chain, 0, K, D, 1.0f, keys);
            transpose(keys, K, D, keys_across, ld);
            gather<K_>(v, kv, chain, 0, K, D, 1.0f, values);
            transpose(values, K, D, values_across, ld);
            const i64 lowest = rule.first_key(at) / W * W;
            for (i64 h = kv * G; h < (kv + 1) * G; h++) {
                gather<K_>(q, h, nullptr, start, L, D, rule.scale, queries);
                gather<A>(grad, h, nullptr, start, L, D, 1.0f, grads);
                in_parts(lowest, width, L, [&](auto rows, i64 i, i64 from, i64 to) {
                    constexpr int R = decltype(rows)::value;
                    const i64 low = std::max(from, rule.first_key(at + i) / W * W);
                    const i64 high = std::min(to, padded(at + i + R));
                    if (low >= high) return;
                    strip<R>(queries + i * D, D, 1, keys_across + low, ld, D, p + i * ld + low, ld, high - low, false);
                    strip<R>(grads + i * D, D, 1, values_across + low, ld, D, ds + i * ld + low, ld, high - low, false);
                });
                in_rows(L, [&](auto rows, i64 i) {
                    constexpr int R = decltype(rows)::value;
                    const i64 low = rule.first_key(at + i) / W * W, wide = padded(at + i + R);
                    for (int r = 0; r < R; r++) {
                        float *row = p + (i + r) * ld, *to = ds + (i + r) * ld;
                        const i64 position = at + i + r;
                        capped(row + low, slope, wide - low, rule.first_key(position) - low, position - low,
                               rule.softcap);
                        const float log = logs[h * T + start + i + r];
                        V sum{};
                        for (i64 j = low; j < wide; j += W) {
                            V x = exp_of(load(row + j) - log);
                            sum += x * load(to + j);
                            store(row + j, x);
                        }
                        const float delta = total(sum);
                        for (i64 j = low; j < wide; j += W) {
                            V x = load(row + j) * (load(to + j) - delta);
                            store(to + j, slope ? x * load(slope + j - low) : x);
                        }
                        // what later rows of the block see and this one doesn't
                        for (i64 j = lowest; j < low; j += W) store(row + j, V{}), store(to + j, V{});
                        for (i64 j = wide; j < width; j += W) store(row + j, V{}), store(to + j, V{});
                    }
                });
                in_parts(lowest, K, L, [&](auto rows, i64 i, i64 from, i64 to) {
                    constexpr int R = decltype(rows)::value;
                    const i64 own = rule.first_key(at + i) / W * W, low = std::max(from, own);
                    const i64 high = std::min(to, at + i + R);
                    if (low >= high) return;
                    strip<R>(ds + i * ld + low, ld, 1, keys + low * D, D, high - low, result + i * D, D, D, low > own);
                });
                for (i64 i = 0; i < L; i++) {
                    A* to = grad_q + ((start + i) * H + h) * D;
                    for (i64 d = 0; d < D; d += W) store(to + d, load(result + i * D + d) * rule.scale);
                }
                const bool add = h > kv * G;
                in_rows(K - lowest, [&](auto rows, i64 j) {
                    constexpr int R = decltype(rows)::value;
                    j += lowest;
                    const i64 from = std::max<i64>(0, j - at);  // earlier queries don't see these keys
                    strip<R>(ds + from * ld + j, 1, ld, queries + from * D, D, L - from, own_k + j * D, D, D, add);
                    strip<R>(p + from * ld + j, 1, ld, grads + from * D, D, L - from, own_v + j * D, D, D, add);
                });
            }
            for (i64 j = lowest; j < K; j++) {
                float* to_k = all_k + (kv * T + chain[j]) * D;
                float* to_v = all_v + (kv * T + chain[j]) * D;
                for (i64 d = 0; d < D; d += W) {
                    store(to_k + d, load(to_k + d) + load(own_k + j * D + d));
                    store(to_v + d, load(to_v + d) + load(own_v + j * D + d));
                }
            }
        }
    });
    divided(threads, T, 1, [&](int, i64 first, i64 last) {
        for (i64 t = first; t < last; t++)
            for (i64 kv = 0; kv < KV; kv++)
                for (i64 d = 0; d < D; d += W) {
                    V sum_k{}, sum_v{};
                    for (int part = 0; part < threads; part++) {
                        const float* from = parts + 2 * size * part + (kv * T + t) * D + d;
                        sum_k += load(from);
                        sum_v += load(from + size);
                    }
                    store(grad_k + (t * KV + kv) * D + d, sum_k);
                    store(grad_v + (t * KV + kv) * D + d, sum_v);
                }
    });
}

// y = x cos + rotate_half(x) sin (arXiv 2104.09864, with the halves of GPT-NeoX); back: by the opposite angle.
// x: [H, T, D] -> y: [T, H, D]; cos, sin: [T, D], the same in both halves.
template <class A>
void rotate(int threads, i64 H, i64 T, i64 D, Heads x, const A* cos, const A* sin, float sign, A* y) {
    const i64 half = D / 2;
    divided(threads, T, 1, [&](int, i64 first, i64 last) {
        for (i64 t = first; t < last; t++)
            for (i64 h = 0; h < H; h++) {
                const A* from = x.row<A>(h, t);
                A* to = y + (t * H + h) * D;
                for (i64 d = 0; d < half; d += W) {
                    V a = load(from + d), b = load(from + half + d);
                    V c = load(cos + t * D + d), s = load(sin + t * D + d) * sign;
                    store(to + d, a * c - b * s);
                    store(to + half + d, b * c + a * s);
                }
            }
    });
}

}  // namespace

extern "C" {

void sapwood_attention_forward(int form, int threads, i64 H, i64 KV, i64 T, i64 D, const Heads* q, const Heads* k,
                               const Heads* v, const Blocks* blocks, const Rule* rule, void* out, float* logs) {
    BY_FORM((void)(K*)0; attention_forward(threads, H, KV, T, D, *q, *k, *v, *blocks, *rule, (A*)out, logs))
}

void sapwood_attention_backward(int form, int threads, i64 H, i64 KV, i64 T, i64 D, const Heads* grad, const Heads* q,
                                const Heads* k, const Heads* v, const float* logs, const Blocks* blocks,
                                const Rule* rule, void* grad_q, void* grad_k, void* grad_v, float* parts) {
    BY_FORM((attention_backward<A, K>(threads, H, KV, T, D, *grad, *q, *k, *v, logs, *blocks, *rule, (A*)grad_q,
                                      (A*)grad_k, (A*)grad_v, parts)))
}

void sapwood_rotate(int form, int threads, i64 H, i64 T, i64 D, const Heads* x, const void* cos, const void* sin,
                    float sign, void* y) {
    BY_FORM((void)(K*)0; rotate(threads, H, T, D, *x, (const A*)cos, (const A*)sin, sign, (A*)y))
}
}
