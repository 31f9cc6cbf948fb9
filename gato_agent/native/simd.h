// Vector types, conversions and exponentials that the C++ sources share.
//
// GCC's and clang's vector extensions: one source for AVX-512, AVX, NEON and SSE.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Floats of a vector, and vectors that may hold sums: more of either would spill to memory.
#ifdef __AVX512F__
constexpr int WIDE = 16, SUMS = 24;
#elif defined(__AVX__)
constexpr int WIDE = 8, SUMS = 12;
#elif defined(__aarch64__)
constexpr int WIDE = 4, SUMS = 24;
#else
constexpr int WIDE = 4, SUMS = 12;
#endif
typedef float Vector __attribute__((vector_size(4 * WIDE)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDE)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDE)));
typedef int8_t Bytes __attribute__((vector_size(WIDE)));
typedef int16_t Shorts __attribute__((vector_size(2 * WIDE)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDE)));

constexpr int PANEL = 64;          // columns of a matrix, or keys, that are stored side by side
constexpr float MASKED = -1e30f;   // score of a key or an id that the mask excludes

struct bf16 { uint16_t bits; };

inline Vector load(const float *p) { Vector v; std::memcpy(&v, p, sizeof v); return v; }
inline Vector load(const bf16 *p) {
    Halves h; std::memcpy(&h, p, sizeof h);
    const Words words = __builtin_convertvector(h, Words) << 16;
    Vector v; std::memcpy(&v, &words, sizeof v); return v;
}
inline Vector load(const int8_t *p) {
    Bytes b; std::memcpy(&b, p, sizeof b);  // in steps: compilers have an instruction for each
    return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(b, Shorts), Integers), Vector);
}
inline void store(float *p, Vector v) { std::memcpy(p, &v, sizeof v); }

inline float get(const float *p) { return *p; }
inline float get(const bf16 *p) { const uint32_t u = uint32_t(p->bits) << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline void put(float *to, float value) { *to = value; }
inline void put(bf16 *to, float value) {  // rounds to nearest even
    uint32_t u; std::memcpy(&u, &value, 4);
    to->bits = uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// exp(x - n log 2) for the integer n nearest to x / log 2, by the polynomial of Cephes, within 2e-7. F: float or Vector.
template <class F>
inline F exp_fraction(F x, F n) {
    const F r = x - n * 0.693359375f + n * 2.12194440e-4f;
    F p = F{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f, p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f, p = p * r * r + r + 1.0f;
    return p;
}

// exp of x <= 0, within 2e-7; below -87 exp(-87). Plain C, which compilers vectorise.
inline float exp_nonpositive(float x) {
    x = std::max(x, -87.0f);
    const float n = std::nearbyint(x * 1.44269504f);
    const float p = exp_fraction(x, n);
    const uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
    float power; std::memcpy(&power, &bits, 4);
    return p * power;
}

// exp of x <= 0, within 2e-7; below -87 zero.
inline Vector exp_nonpositive(Vector x) {
    const Vector magic = Vector{} + 12582912.0f;  // adding it leaves no bits for a fraction
    const Integers normal = x > -87.0f;
    x = normal ? x : Vector{};
    const Vector n = (x * 1.44269504f + magic) - magic;
    const Vector p = exp_fraction(x, n);
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return normal ? p * (Vector)power : Vector{};
}

// x Phi(x), with the error function as a rational function on [-4, 4] (XLA's and Eigen's coefficients), within 3e-7.
inline float gelu(float x) {
    const float z = std::min(std::max(x * 0.70710678f, -4.0f), 4.0f), s = z * z;
    float p = -2.72614225801306e-10f, q = -1.45660718464996e-05f;
    p = p * s + 2.77068142495902e-08f, p = p * s - 2.10102402082508e-06f, p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f, p = p * s - 2.95459980854025e-03f, p = p * s - 1.60960333262415e-02f;
    q = q * s - 2.13374055278905e-04f, q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f, q = q * s - 1.42647390514189e-02f;
    return 0.5f * x * (1.0f + z * p / q);
}

}  // namespace
