// What a group of adapted linears does besides its large products: dropout, the low-rank products, rounding to 8 bits
// and back, the gated activation. Four rows at a time lie in the first cache while all of it happens to them.
//
// Matrices are row-major. T rows (tokens); D, O, F columns, multiples of 16; R: ranks, of all members of a group.
// "a": A of all members, fp32[R, D]. "bt": B^T times the adapter's scale, fp32[r, O].

#include "common.h"

namespace {

constexpr int ROWS = 4;

// out[n][r] = sum_d x[n][d] * m[r][d]; x: N rows of stride ldx, m: RANKS rows of stride ldm
template <int N, int RANKS>
INLINE void dots(const float* x, i64 ldx, const float* m, i64 ldm, i64 width, float* out, i64 ldo) {
    V acc[W] = {};
    for (i64 d = 0; d < width; d += W) {
        V xs[N];
        EACH for (int n = 0; n < N; n++) xs[n] = load(x + n * ldx + d);
        EACH for (int r = 0; r < RANKS; r++) {
            V v = load(m + r * ldm + d);
            EACH for (int n = 0; n < N; n++) acc[n * RANKS + r] += xs[n] * v;
        }
    }
    V found = sums(acc);
    EACH for (int n = 0; n < N; n++)
        EACH for (int r = 0; r < RANKS; r++) out[n * ldo + r] = found[n * RANKS + r];
}

template <int N>
INLINE void low_rank(const float* x, i64 ldx, const float* m, i64 ldm, i64 R, i64 width, float* out, i64 ldo) {
    i64 r = 0;
    for (; r + W / ROWS <= R; r += W / ROWS) dots<N, W / ROWS>(x, ldx, m + r * ldm, ldm, width, out + r, ldo);
    for (; r < R; r++) dots<N, 1>(x, ldx, m + r * ldm, ldm, width, out + r, ldo);
}

// body(vectors, at) over `width` columns, some vectors at a time: so many products for each number that is spread
template <class Body>
INLINE void in_vectors(i64 width, Body body) {
    i64 at = 0;
    for (; at + MOST * W <= width; at += MOST * W) body(std::integral_constant<int, MOST>(), at);
    for (; at < width; at += W) body(std::integral_constant<int, 1>(), at);
}

// y[n][o] += sum_r h[n][r] * m[r][o]
template <int N>
INLINE void add_low_rank(float* y, i64 ldy, const float* h, i64 ldh, const float* m, i64 ldm, i64 R, i64 width) {
    in_vectors(width, [&](auto vectors, i64 o) {
        constexpr int C = decltype(vectors)::value;
        V acc[N][C];
        EACH for (int n = 0; n < N; n++)
            EACH for (int c = 0; c < C; c++) acc[n][c] = load(y + n * ldy + o + c * W);
        for (i64 r = 0; r < R; r++) {
            V v[C];
            EACH for (int c = 0; c < C; c++) v[c] = load(m + r * ldm + o + c * W);
            EACH for (int n = 0; n < N; n++) {
                V spread = splat(h[n * ldh + r]);
                EACH for (int c = 0; c < C; c++) acc[n][c] += spread * v[c];
            }
        }
        EACH for (int n = 0; n < N; n++)
            EACH for (int c = 0; c < C; c++) store(y + n * ldy + o + c * W, acc[n][c]);
    });
}

// total[r][d] += sum_n h[n][r] * x[n][d]
template <int N>
INLINE void add_outer(float* total, i64 ldt, const float* h, i64 ldh, const float* x, i64 ldx, i64 R, i64 width) {
    in_vectors(width, [&](auto vectors, i64 d) {
        constexpr int C = decltype(vectors)::value;
        V xs[N][C];
        EACH for (int n = 0; n < N; n++)
            EACH for (int c = 0; c < C; c++) xs[n][c] = load(x + n * ldx + d + c * W);
        for (i64 r = 0; r < R; r++) {
            V acc[C];
            EACH for (int c = 0; c < C; c++) acc[c] = load(total + r * ldt + d + c * W);
            EACH for (int n = 0; n < N; n++) {
                V spread = splat(h[n * ldh + r]);
                EACH for (int c = 0; c < C; c++) acc[c] += spread * xs[n][c];
            }
            EACH for (int c = 0; c < C; c++) store(total + r * ldt + d + c * W, acc[c]);
        }
    });
}

// codes = round(x / scale), scale = max |x| / 127; factor: of each column, or null
INLINE float round_row(const float* x, const float* factor, i64 width, int8_t* codes) {
    VI top{};
    for (i64 d = 0; d < width; d += W) {
        V v = load(x + d);
        top = larger(top, magnitude(factor ? v * load(factor + d) : v));
    }
    float most = largest(top);
    float scale = most < 127e-12f ? 1e-12f : most / 127.0f;
    V inverse = splat(1.0f / scale);
    for (i64 d = 0; d < width; d += W) {
        V v = load(x + d);
        store_codes(codes + d, (factor ? v * load(factor + d) : v) * inverse);
    }
    return scale;
}

// What a product gave: numbers, or exact sums of codes with what they mean.
struct Product {
    const void* data;
    i64 ld;
    const float* row_scale;     // null: of numbers
    const float* column_scale;  // null: ones
    const float* bias;          // null: none
    i64 narrow;                 // the numbers are bf16

    template <bool ADD, class N>
    INLINE void numbers(float* y, const N* from, i64 width) const {
        for (i64 o = 0; o < width; o += W) {
            V v = load(from + o);
            if (bias) v += load(bias + o);
            store(y + o, ADD ? load(y + o) + v : v);
        }
    }
    // y = row t, or += row t
    template <bool ADD = false>
    INLINE void row(float* y, i64 t, i64 width) const {
        if (row_scale == nullptr) {
            if (narrow) return numbers<ADD>(y, (const bf16*)data + t * ld, width);
            return numbers<ADD>(y, (const float*)data + t * ld, width);
        }
        const int32_t* from = (const int32_t*)data + t * ld;
        const V scale = splat(row_scale[t]);
        for (i64 o = 0; o < width; o += W) {
            V v = load_int(from + o) * scale;
            if (column_scale) v *= load(column_scale + o);
            if (bias) v += load(bias + o);
            store(y + o, ADD ? load(y + o) + v : v);
        }
    }
};

// parts: memory for what each thread adds up by itself
INLINE float* zeroed(float* parts, i64 size) {
    std::memset(parts, 0, sizeof(float) * size);
    return parts;
}

template <class Body>
INLINE void in_blocks(i64 first, i64 last, Body body) {
    i64 t = first;
    for (; t + ROWS <= last; t += ROWS) body(std::integral_constant<int, ROWS>(), t);
    for (; t < last; t++) body(std::integral_constant<int, 1>(), t);
}

// parts: [threads][size], summed into out in the order of threads
INLINE void sum_parts(const float* parts, int threads, i64 size, float* out) {
    for (i64 i = 0; i < size; i++) {
        float total = parts[i];
        for (int t = 1; t < threads; t++) total += parts[t * size + i];
        out[i] = total;
    }
}

struct Activation {
    bool gelu;
    // value and slope of silu(x), or of gelu(x) by tanh
    INLINE void operator()(V x, V& value, V& slope) const {
        if (gelu) {
            V square = x * x;
            V inner = x * (square * 0.035677408136f + 0.7978845608f);
            V tanh = 1.0f - 2.0f / (exp_of(inner + inner) + 1.0f);
            V half = tanh * 0.5f + 0.5f;
            value = x * half;
            slope = half + 0.5f * x * (1.0f - tanh * tanh) * (square * 0.107032224408f + 0.7978845608f);
            return;
        }
        V s = 1.0f / (exp_of(-x) + 1.0f);
        value = x * s;
        slope = s + value * (1.0f - s);
    }
};

template <class A, class K>
void read_input(int threads, i64 T, i64 D, const A* x, K* kept, const float* columns, int8_t* codes, float* scale,
                const float* a, i64 R, Dropout drop, float* h, i64 ldh, const i64* exact, i64 num_exact) {
    const K* form = nullptr;
    divided(threads, T, ROWS, [&](int, i64 first, i64 last) {
        float* wide = scratch<0>(ROWS * D);
        float* keep = scratch<1>(D);
        in_blocks(first, last, [&](auto rows, i64 t) {
            constexpr int N = decltype(rows)::value;
            for (int n = 0; n < N; n++) {
                const A* from = x + (t + n) * D;
                float* row = wide + n * D;
                for (i64 d = 0; d < D; d += W) store(row + d, load(from + d));
                if (codes) scale[t + n] = round_row(row, columns, D, codes + (t + n) * D);
                for (i64 j = 0; j < num_exact; j++) h[(t + n) * ldh + R + j] = row[exact[j]];
                drop.row(keep, D, t + n);
                for (i64 d = 0; d < D; d += W) {
                    V v = rounded(load(row + d), form);
                    if (kept) store(kept + (t + n) * D + d, v);
                    store(row + d, v * load(keep + d));
                }
            }
            low_rank<N>(wide, D, a, D, R, D, h + t * ldh, ldh);
        });
    });
}

template <class A>
void write_output(int threads, i64 T, i64 O, Product from, const float* h, i64 ldh, const float* bt, i64 r, A* y) {
    divided(threads, T, ROWS, [&](int, i64 first, i64 last) {
        float* wide = scratch<0>(ROWS * O);
        in_blocks(first, last, [&](auto rows, i64 t) {
            constexpr int N = decltype(rows)::value;
            for (int n = 0; n < N; n++) from.row(wide + n * O, t + n, O);
            add_low_rank<N>(wide, O, h + t * ldh, ldh, bt, O, r, O);
            for (int n = 0; n < N; n++)
                for (i64 o = 0; o < O; o += W) store(y + (t + n) * O + o, load(wide + n * O + o));
        });
    });
}

// One of a gated MLP's two products, with its adapter.
struct Side {
    Product from;
    const float* h;   // at its first rank
    i64 ldh;
    const float* bt;  // [r, ldb]
    i64 ldb, r;
};

template <class A, class K>
void gated_forward(int threads, i64 T, i64 F, Side gate, Side up, Activation act, K* kept_gate, K* kept_up, i64 ldk,
                   A* inner, float* most, float* parts) {
    divided(threads, T, ROWS, [&](int thread, i64 first, i64 last) {
        float* g = scratch<0>(ROWS * F);
        float* u = scratch<1>(ROWS * F);
        float* top = most ? zeroed(parts + thread * F, F) : nullptr;
        in_blocks(first, last, [&](auto rows, i64 t) {
            constexpr int N = decltype(rows)::value;
            for (int n = 0; n < N; n++) {
                gate.from.row(g + n * F, t + n, F);
                up.from.row(u + n * F, t + n, F);
            }
            add_low_rank<N>(g, F, gate.h + t * gate.ldh, gate.ldh, gate.bt, gate.ldb, gate.r, F);
            add_low_rank<N>(u, F, up.h + t * up.ldh, up.ldh, up.bt, up.ldb, up.r, F);
            for (int n = 0; n < N; n++)
                for (i64 f = 0; f < F; f += W) {
                    V x = load(g + n * F + f), v = load(u + n * F + f), value, slope;
                    store(kept_gate + (t + n) * ldk + f, x);
                    store(kept_up + (t + n) * ldk + f, v);
                    act(x, value, slope);
                    value *= v;
                    store(inner + (t + n) * F + f, value);
                    if (top) put(top + f, larger(get<VI>(top + f), magnitude(value)));
                }
        });
    });
    if (!most) return;
    for (i64 f = 0; f < F; f++) {
        int32_t top = 0, one;
        for (int t = 0; t < threads; t++) {
            std::memcpy(&one, &parts[t * F + f], 4);
            top = std::max(top, one);
        }
        std::memcpy(most + f, &top, 4);
    }
}

// The gradient of an output: grad_h and grad_bt of its adapter, and codes of g * columns where they are asked for.
template <class A>
void read_grad(int threads, i64 T, i64 O, const A* g, const float* columns, int8_t* codes, float* scale,
               const float* bt, i64 r, const float* h, i64 ldh, float* grad_h, i64 ldg, float* grad_bt, float* parts) {
    divided(threads, T, ROWS, [&](int thread, i64 first, i64 last) {
        float* wide = scratch<0>(ROWS * O);
        float* total = zeroed(parts + thread * r * O, r * O);
        in_blocks(first, last, [&](auto rows, i64 t) {
            constexpr int N = decltype(rows)::value;
            for (int n = 0; n < N; n++) {
                const A* from = g + (t + n) * O;
                for (i64 o = 0; o < O; o += W) store(wide + n * O + o, load(from + o));
                if (codes) scale[t + n] = round_row(wide + n * O, columns, O, codes + (t + n) * O);
            }
            low_rank<N>(wide, O, bt, O, r, O, grad_h + t * ldg, ldg);
            add_outer<N>(total, O, h + t * ldh, ldh, wide, O, r, O);
        });
    });
    sum_parts(parts, threads, r * O, grad_bt);
}

// The gradient of an input: the products' share plus the adapter's, and grad_a.
template <class A, class K>
void write_grad(int threads, i64 T, i64 D, const Product* from, int num, const float* grad_h, i64 R, const float* a,
                const K* kept, Dropout drop, A* grad_x, float* grad_a, float* parts) {
    divided(threads, T, ROWS, [&](int thread, i64 first, i64 last) {
        float* wide = scratch<0>(ROWS * D);
        float* keep = scratch<1>(ROWS * D);
        float* through = scratch<2>(ROWS * D);
        float* total = zeroed(parts + thread * R * D, R * D);
        in_blocks(first, last, [&](auto rows, i64 t) {
            constexpr int N = decltype(rows)::value;
            for (int n = 0; n < N; n++) {
                drop.row(keep + n * D, D, t + n);
                for (i64 d = 0; d < D; d += W)
                    store(wide + n * D + d, load(kept + (t + n) * D + d) * load(keep + n * D + d));
            }
            add_outer<N>(total, D, grad_h + t * R, R, wide, D, R, D);
            if (!grad_x) return;
            std::memset(through, 0, sizeof(float) * N * D);
            add_low_rank<N>(through, D, grad_h + t * R, R, a, D, R, D);
            for (int n = 0; n < N; n++) {
                float* row = through + n * D;
                for (i64 d = 0; d < D; d += W) store(row + d, load(row + d) * load(keep + n * D + d));
                for (int i = 0; i < num; i++) from[i].row<true>(row, t + n, D);
                for (i64 d = 0; d < D; d += W) store(grad_x + (t + n) * D + d, load(row + d));
            }
        });
    });
    sum_parts(parts, threads, R * D, grad_a);
}

// What one of a gated MLP's two sides needs on the way back.
struct SideBack {
    const float* columns;  // of its codes; null with codes
    int8_t* codes;
    float* scale;
    void* grad;  // [T, F], where there are no codes
    const float* h;
    const float* bt;
    i64 ldh, ldb, r;
    float* grad_h;  // at its first rank, of the same stride as h
    float* grad_bt;  // [r, ldb]
};

// From the gradient of down_proj's product to what gate and up multiply next.
template <class A, class K>
void gated_backward(int threads, i64 T, i64 F, Product through, const float* grad_h_down, const float* a_down, i64 r,
                    Dropout drop, const K* gate, const K* up, i64 ldk, Activation act, const SideBack* sides,
                    float* grad_a_down, float* parts) {
    const K* form = nullptr;
    const i64 size = r * F + (sides[0].r + sides[1].r) * F;
    divided(threads, T, ROWS, [&](int thread, i64 first, i64 last) {
        float* down = scratch<0>(ROWS * F);
        float* inner = scratch<1>(ROWS * F);
        float* keep = scratch<2>(F);
        float* grads[2] = {scratch<3>(ROWS * F), scratch<4>(ROWS * F)};
        float* total = zeroed(parts + thread * size, size);
        in_blocks(first, last, [&](auto rows, i64 t) {
            constexpr int N = decltype(rows)::value;
            std::memset(down, 0, sizeof(float) * N * F);
            add_low_rank<N>(down, F, grad_h_down + t * r, r, a_down, F, r, F);
            for (int n = 0; n < N; n++) {
                drop.row(keep, F, t + n);
                float* row = down + n * F;
                for (i64 f = 0; f < F; f += W) store(row + f, load(row + f) * load(keep + f));
                through.row<true>(row, t + n, F);
                for (i64 f = 0; f < F; f += W) {
                    V x = load(gate + (t + n) * ldk + f), v = load(up + (t + n) * ldk + f), g = load(row + f);
                    V value, slope;
                    act(x, value, slope);
                    store(inner + n * F + f, rounded(value * v, form) * load(keep + f));
                    store(grads[0] + n * F + f, g * v * slope);
                    store(grads[1] + n * F + f, g * value);
                }
            }
            add_outer<N>(total, F, grad_h_down + t * r, r, inner, F, r, F);
            float* own = total + r * F;
            for (int i = 0; i < 2; i++) {
                const SideBack& side = sides[i];
                for (int n = 0; n < N; n++) {
                    const float* row = grads[i] + n * F;
                    if (side.codes)
                        side.scale[t + n] = round_row(row, side.columns, F, side.codes + (t + n) * F);
                    else
                        for (i64 f = 0; f < F; f += W) store((A*)side.grad + (t + n) * F + f, load(row + f));
                }
                float h[ROWS * 256];
                low_rank<N>(grads[i], F, side.bt, side.ldb, side.r, F, h, side.r);
                for (int n = 0; n < N; n++)
                    for (i64 k = 0; k < side.r; k++) side.grad_h[(t + n) * side.ldh + k] = h[n * side.r + k];
                add_outer<N>(own, F, side.h + t * side.ldh, side.ldh, grads[i], F, side.r, F);
                own += side.r * F;
            }
        });
    });
    for (int t = 1; t < threads; t++)
        for (i64 i = 0; i < size; i++) parts[i] += parts[t * size + i];
    std::memcpy(grad_a_down, parts, sizeof(float) * r * F);
    const float* from = parts + r * F;
    for (int i = 0; i < 2; i++) {
        for (i64 k = 0; k < sides[i].r; k++, from += F) std::memcpy(sides[i].grad_bt + k * sides[i].ldb, from, sizeof(float) * F);
    }
}

}  // namespace

// --- what Python calls --------------------------------------------------------------------------------------

extern "C" {

void sapwood_keep_mask(int threads, i64 T, i64 D, const Dropout* drop, float* keep) {
    divided(threads, T, 1, [&](int, i64 first, i64 last) {
        for (i64 t = first; t < last; t++) drop->row(keep + t * D, D, t);
    });
}

// to[columns][rows] = factor * from[rows][columns]^T
void sapwood_transposed(i64 rows, i64 columns, const float* from, float factor, float* to) {
    for (i64 c = 0; c < columns; c++)
        for (i64 r = 0; r < rows; r++) to[c * rows + r] = from[r * columns + c] * factor;
}

void sapwood_read_input(int form, int threads, i64 T, i64 D, const void* x, void* kept, const float* columns,
                        int8_t* codes, float* scale, const float* a, i64 R, const Dropout* drop, float* h, i64 ldh,
                        const i64* exact, i64 num_exact) {
    BY_FORM(read_input(threads, T, D, (const A*)x, (K*)kept, columns, codes, scale, a, R, *drop, h, ldh, exact,
                       num_exact))
}

void sapwood_write_output(int form, int threads, i64 T, i64 O, const Product* from, const float* h, i64 ldh,
                          const float* bt, i64 r, void* y) {
    BY_FORM((void)(K*)0; write_output(threads, T, O, *from, h, ldh, bt, r, (A*)y))
}

void sapwood_gated_forward(int form, int threads, i64 T, i64 F, const Side* gate, const Side* up, int gelu,
                           void* kept_gate, void* kept_up, i64 ldk, void* inner, float* most, float* parts) {
    BY_FORM(gated_forward(threads, T, F, *gate, *up, Activation{gelu != 0}, (K*)kept_gate, (K*)kept_up, ldk,
                          (A*)inner, most, parts))
}

void sapwood_read_grad(int form, int threads, i64 T, i64 O, const void* g, const float* columns, int8_t* codes,
                       float* scale, const float* bt, i64 r, const float* h, i64 ldh, float* grad_h, i64 ldg,
                       float* grad_bt, float* parts) {
    BY_FORM((void)(K*)0; read_grad(threads, T, O, (const A*)g, columns, codes, scale, bt, r, h, ldh, grad_h, ldg,
                                   grad_bt, parts))
}

void sapwood_write_grad(int form, int threads, i64 T, i64 D, const Product* from, int num, const float* grad_h, i64 R,
                        const float* a, const void* kept, const Dropout* drop, void* grad_x, float* grad_a,
                        float* parts) {
    BY_FORM(write_grad(threads, T, D, from, num, grad_h, R, a, (const K*)kept, *drop, (A*)grad_x, grad_a, parts))
}

void sapwood_gated_backward(int form, int threads, i64 T, i64 F, const Product* through, const float* grad_h_down,
                            const float* a_down, i64 r, const Dropout* drop, const void* gate, const void* up, i64 ldk,
                            int gelu, const SideBack* sides, float* grad_a_down, float* parts) {
    BY_FORM((gated_backward<A>(threads, T, F, *through, grad_h_down, a_down, r, *drop, (const K*)gate, (const K*)up,
                               ldk, Activation{gelu != 0}, sides, grad_a_down, parts)))
}
}
