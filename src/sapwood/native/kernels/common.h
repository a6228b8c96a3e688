// What the kernels share: vectors, bf16, random bits, exponentials, rows divided among threads.
//
// Vectors of the compiler (GCC and Clang), as wide as a register: sixteen floats with AVX-512, eight with AVX2 (NEON
// takes two registers for them). Nothing here allows the compiler to forget numbers that are no numbers: a NaN that
// comes in must come out.
#pragma once

#include <atomic>
#include <new>
#include <omp.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX512BW__
constexpr int W = 16;  // lanes
constexpr int MOST = 4;  // vectors side by side in a tile of four rows: 32 registers hold its sums
#else
constexpr int W = 8;
constexpr int MOST = 2;  // sixteen registers
#endif
constexpr int LINE = 16;  // floats of a cache line
using V = float __attribute__((vector_size(4 * W)));
using VI = int32_t __attribute__((vector_size(4 * W)));
using VU = uint32_t __attribute__((vector_size(4 * W)));
using VH = uint16_t __attribute__((vector_size(2 * W)));
using VB = int8_t __attribute__((vector_size(W)));
using i64 = int64_t;

#define INLINE inline __attribute__((always_inline))
// Before loops of a few rounds over an array that is to lie in registers: unrolled early enough for that.
#define EACH _Pragma("GCC unroll 16")

// --- memory -------------------------------------------------------------------------------------------------

// A vector wherever it lies. Not by memcpy, which GCC does in halves through the stack.
template <class T>
struct __attribute__((packed, may_alias)) Loose {
    T value;
};
template <class T>
INLINE T get(const void* p) {
    return ((const Loose<T>*)p)->value;
}
template <class T>
INLINE void put(void* p, T v) {
    ((Loose<T>*)p)->value = v;
}

// --- numbers ------------------------------------------------------------------------------------------------

struct bf16 {
    uint16_t bits;
};

// Narrowing and widening: GCC 12 takes vectors apart for these, one number after the other.
#ifdef __AVX512BW__
INLINE VH low_half(VU v) { return (VH)_mm512_cvtepi32_epi16((__m512i)v); }
INLINE VB low_byte(VI v) { return (VB)_mm512_cvtepi32_epi8((__m512i)v); }
INLINE VU widened(VH v) { return (VU)_mm512_cvtepu16_epi32((__m256i)v); }
#elif defined(__AVX2__)
INLINE VH low_half(VU v) {
    return (VH)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
}
INLINE VB low_byte(VI v) { return __builtin_convertvector(v, VB); }
INLINE VU widened(VH v) { return (VU)_mm256_cvtepu16_epi32((__m128i)v); }
#else
INLINE VH low_half(VU v) { return __builtin_convertvector(v, VH); }
INLINE VB low_byte(VI v) { return __builtin_convertvector(v, VB); }
INLINE VU widened(VH v) { return __builtin_convertvector(v, VU); }
#endif

// Not V{} + x, which is another number for -0: a compiler adds, and then shuffles, on the port of the products.
#ifdef __AVX512BW__
INLINE V splat(float x) { return (V)_mm512_set1_ps(x); }
#elif defined(__AVX2__)
INLINE V splat(float x) { return (V)_mm256_set1_ps(x); }
#else
INLINE V splat(float x) { return V{x, x, x, x, x, x, x, x}; }
#endif
INLINE VI counted() {  // 0, 1, 2, ..
    VI v;
    EACH for (int i = 0; i < W; i++) v[i] = i;
    return v;
}
INLINE V load(const float* p) { return get<V>(p); }
INLINE V load(const bf16* p) { return (V)(widened(get<VH>(p)) << 16); }
INLINE void store(float* p, V v) { put(p, v); }
INLINE void store(bf16* p, V v) {  // to nearest, ties to even; NaNs as torch makes them stay NaN
    VU bits = (VU)v;
    put(p, low_half((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16));
}
INLINE V rounded(V v, const float*) { return v; }
INLINE V rounded(V v, const bf16*) {  // as it reads when it was stored
    VU bits = (VU)v;
    return (V)((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}
INLINE V load_int(const int32_t* p) { return __builtin_convertvector(get<VI>(p), V); }
INLINE float total(V v) {
    float sum = 0;
    for (int i = 0; i < W; i++) sum += v[i];
    return sum;
}
// The bits of |x| compare like the numbers, and those of a NaN are the largest: it isn't lost in a maximum.
INLINE VI magnitude(V v) { return (VI)v & 0x7fffffff; }
INLINE VI larger(VI a, VI b) { return a > b ? a : b; }
INLINE float largest(VI v) {
    int32_t top = 0;
    for (int i = 0; i < W; i++) top = std::max(top, v[i]);
    float x;
    std::memcpy(&x, &top, sizeof x);
    return x;
}
INLINE void store_codes(int8_t* p, V v) {  // |v| <= 127, to nearest: the lowest byte beside 1.5 * 2^23
    put(p, low_byte((VI)(v + 12582912.0f)));
}

// e^x to the last two bits or so; 0 below what fp32 holds, 2.4e38 above. Coefficients: the Taylor series on
// [-ln 2 / 2, ln 2 / 2], whose rest after x^7 is below 2^-24.
INLINE V exp_of(V x) {
    x = x > splat(88.37f) ? splat(88.37f) : x;
    V low = splat(-87.3f);
    VI tiny = x < low;
    V n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    V p = splat(1.98412698e-4f);
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    VI scale = (__builtin_convertvector(n, VI) + 127) << 23;
    V y = p * (V)scale;
    return tiny ? V{} : y;
}

// --- exchanging lanes ---------------------------------------------------------------------------------------

#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#ifdef __AVX512BW__
constexpr int ROUNDS = 4;  // halvings until one lane is left
INLINE V woven_low(V a, V b) { return PICK(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
INLINE V woven_high(V a, V b) { return PICK(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); }
#else
constexpr int ROUNDS = 3;
INLINE V woven_low(V a, V b) { return PICK(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
INLINE V woven_high(V a, V b) { return PICK(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#endif

// Lane i of the result: the sum of all lanes of v[i].
INLINE V sums(V* v) {
    EACH for (int count = W / 2; count; count /= 2)
        EACH for (int i = 0; i < count; i++) v[i] = woven_low(v[i], v[i + count]) + woven_high(v[i], v[i + count]);
    return v[0];
}

// x[i][j] and x[j][i] change places: each round weaves the first half of the vectors with the second.
INLINE void transpose_tile(V* x) {
    EACH for (int round = 0; round < ROUNDS; round++) {
        V y[W];
        EACH for (int i = 0; i < W / 2; i++) {
            y[2 * i] = woven_low(x[i], x[i + W / 2]);
            y[2 * i + 1] = woven_high(x[i], x[i + W / 2]);
        }
        EACH for (int i = 0; i < W; i++) x[i] = y[i];
    }
}

// --- random bits --------------------------------------------------------------------------------------------
// Philox4x32 with 7 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). One counter gives
// eight numbers of 16 bits, for columns sixteen apart; sixteen counters give those of 128 columns of a row.

constexpr int CHUNK = 128, COUNTERS = 16;

using VL = uint64_t __attribute__((vector_size(4 * W)));

INLINE VL wide_product(VL a, uint32_t m) {  // of the lower halves
#if defined(__AVX512BW__)  // the compiler would multiply all 64 bits, at a third of the speed
    return (VL)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    return (VL)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#else
    return (a & 0xffffffffull) * (uint64_t)m;
#endif
}

INLINE void multiply(VU a, uint32_t m, VU& high, VU& low) {
    VL even = wide_product((VL)a, m), odd = wide_product((VL)a >> 32, m);
    low = (VU)((even & 0xffffffffull) | (odd << 32));
    high = (VU)((even >> 32) | (odd & 0xffffffff00000000ull));
}

// keep[0 .. width): `kept` where an element of row `row` stays, 0 where it is dropped (probability level / 65536).
INLINE void keep_row(float* keep, i64 width, i64 row, uint64_t seed, uint32_t level, float kept) {
    for (i64 counter = 0; counter / COUNTERS * CHUNK < width; counter += W) {
        VU a = (VU)counted() + (uint32_t)counter, b = VU{} + (uint32_t)row, c = VU{}, d = VU{};
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 7; round++) {
            VU ha, la, hc, lc;
            multiply(a, 0xD2511F53u, ha, la);
            multiply(c, 0xCD9E8D57u, hc, lc);
            a = hc ^ b ^ k0;
            b = lc;
            c = ha ^ d ^ k1;
            d = la;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        const VU words[4] = {a, b, c, d};
        const i64 start = counter / COUNTERS * CHUNK + counter % COUNTERS;
        for (int half = 0; half < 2; half++)
            for (int w = 0; w < 4; w++) {
                i64 at = start + half * 64 + w * COUNTERS;
                if (at >= width) continue;
                VU bits = half ? words[w] >> 16 : words[w] & 0xffffu;
                store(keep + at, (VI)bits >= (int32_t)level ? splat(kept) : V{});
            }
    }
}

struct Dropout {  // level 0: nothing is dropped
    uint64_t seed;
    uint32_t level;
    float kept;  // 1, or 1 / (1 - rate)

    INLINE void row(float* keep, i64 width, i64 row) const {
        if (level) return keep_row(keep, width, row, seed, level, kept);
        for (i64 i = 0; i < width; i += W) store(keep + i, splat(kept));
    }
};

// --- threads ------------------------------------------------------------------------------------------------

// body(thread, first, last) for each thread's share of `count` units, in blocks of `block`: a function of the number
// of threads alone, and so are sums of what they find.
// set by a thread that got no memory for its scratch; an exception must not leave a parallel region
inline std::atomic<int> starved{0};

template <class Body>
INLINE void guarded(Body body) {
    try {
        body();
    } catch (const std::bad_alloc&) {
        starved = 1;
    }
}

// body(part) for each of as many parts as there are threads
template <class Body>
INLINE void each_part(int threads, Body body) {
#pragma omp parallel num_threads(threads)
    guarded([&] {
        for (int part = omp_get_thread_num(); part < threads; part += omp_get_num_threads()) body(part);
    });
}

template <class Body>
INLINE void divided(int threads, i64 count, i64 block, Body body) {
    const i64 blocks = (count + block - 1) / block;
#pragma omp parallel num_threads(threads)
    {
        const i64 t = omp_get_thread_num(), n = omp_get_num_threads();
        guarded([&] {
            body((int)t, std::min(count, blocks * t / n * block), std::min(count, blocks * (t + 1) / n * block));
        });
    }
}

// memory of a thread, kept for the next call; it begins with a cache line, which no vector then straddles
template <int NAME>
INLINE float* scratch(i64 size) {
    static thread_local std::vector<float> held;
    if ((i64)held.size() < size + LINE) held.resize(size + LINE);
    const uintptr_t line = LINE * sizeof(float);
    return (float*)(((uintptr_t)held.data() + line - 1) / line * line);
}

// --- formats ------------------------------------------------------------------------------------------------

// form: 0 where activations and what is kept are fp32, 1 where the latter is bf16, 2 where both are.

#define BY_FORM(CALL)                                            \
    switch (form) {                                              \
        case 0: { using A = float; using K = float; CALL; break; } \
        case 1: { using A = float; using K = bf16; CALL; break; }  \
        case 2: { using A = bf16; using K = bf16; CALL; break; }   \
    }
