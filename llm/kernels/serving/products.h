/* Products of tokens with packed weights, for decode.c.

Weights are packed once, in tiles of LANES outputs x GROUP inputs, so that a register holds the same inputs of LANES
outputs and no sum ever crosses its lanes. A tile is kept in one of two ways:

- FLOAT: the weights themselves;
- BYTES: weight = scale * (q - 128), q of 8 bits, a scale an output.

With BYTES inputs are rounded to 8 bits, too, each GROUP by its own largest value, and products are sums of integers
within a group; a GROUP with an input that is infinite or NaN makes all outputs of its token NaN. Each token is computed
by itself, by the same operations in the same order whatever else is in the step: so a text is the same alone and among
others, to the bit. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#if defined __AVX512F__ && defined __AVX512VNNI__
#define WITH_VNNI
#elif defined __AVX2__ && defined __FMA__ && defined __F16C__
#define WITH_AVX2
#ifdef __AVXVNNI__ /* in registers of 256 bits */
#define WITH_AVX_VNNI
#endif
#endif
#endif

enum { LANES = 16, GROUP = 32, QUADS = GROUP / 4, STEP = 128, ALIGNMENT = 64 };
enum { MANY = 32 }; /* tokens a thread from which on each has tokens of its own */
enum { AHEAD = 8 }; /* tiles between the one that is asked of memory and the one that is multiplied */
#ifdef WITH_VNNI
enum { REGISTER = 16, TILE = 16 }; /* lanes of a register; tokens whose sums the registers hold beside weights */
#else
enum { REGISTER = 8, TILE = 4 };
#endif
enum { PARTS = LANES / REGISTER };
#if defined WITH_AVX2 && !defined WITH_AVX_VNNI
enum { SIGNED = 1 }; /* whether weights are multiplied as q - 128 */
#else
enum { SIGNED = 0 };
#endif

typedef float Floats __attribute__((vector_size(4 * REGISTER), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * REGISTER), aligned(4), may_alias));

typedef enum { FLOAT, BYTES } Precision;

typedef struct {
    int32_t kind, outputs, inputs;
    const void *weights; /* tiles: outputs by LANES, in these inputs by GROUP */
    const uint16_t *scales; /* float16, LANES a tile */
    const float *bias;   /* outputs, or NULL */
} Matrix;

/* What a product reads: N rows, padded with zeros to whole groups: floats, or bytes with a scale a group. */
typedef struct {
    float *floats;
    int8_t *bytes;
    float *scales;
    int32_t *offsets; /* -128 times the sum of a group's bytes */
} Inputs;

static int groups(int width) { return (width + GROUP - 1) / GROUP; }
static int tiles(int width) { return (width + LANES - 1) / LANES; }

/* float16 as float and back, without the processor's help, which not every one has; a number that is too large for
float16 becomes another. */
static inline float widen(uint16_t half) {
    const uint32_t bits = (half & 0x7fffu) << 13;
    float x;
    memcpy(&x, &bits, sizeof x);
    return half & 0x8000u ? -(x * 0x1p112f) : x * 0x1p112f;
}

static inline uint16_t narrow(float x) {
    const float small = fabsf(x) * 0x1p-112f;
    uint32_t bits;
    memcpy(&bits, &small, sizeof bits);
    return (uint16_t)((bits + 0xfff + (bits >> 13 & 1)) >> 13 | (x < 0 ? 0x8000u : 0));
}

static inline Floats widen_all(const uint16_t *halves) {
#if defined WITH_VNNI
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#elif defined WITH_AVX2
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#else
    Floats wide;
    for (int lane = 0; lane < REGISTER; lane++)
        wide[lane] = widen(halves[lane]);
    return wide;
#endif
}

/* 4 weights of each lane, which are `j` of QUADS in a part of a tile; as many to come are asked of memory. */
static inline Integers quad(const uint8_t *tile, int j, int part) {
    const int at = (j * LANES + part * REGISTER) * 4;
    if (part == 0)
        __builtin_prefetch(tile + AHEAD * GROUP * LANES + at);
    return *(const Integers *)(tile + at);
}

/* Sums of a group, lane by lane: begun, and with the products of a lane's 4 weights and the 4 inputs that all lanes
share.

Without VNNI, AVX2 adds two products in 16 bits, which weights without a sign overflow: so they get it back, and it goes
over to the inputs. */
static inline Integers begun(int32_t offset) { return (Integers){0} + (SIGNED ? 0 : offset); }

static inline Integers dot(Integers sum, Integers weights, int32_t inputs) {
#if defined WITH_VNNI
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(inputs));
#elif defined WITH_AVX_VNNI
    return (Integers)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weights, _mm256_set1_epi32(inputs));
#elif defined WITH_AVX2
    const __m256i x = _mm256_set1_epi32(inputs);
    const __m256i w = _mm256_xor_si256((__m256i)weights, _mm256_set1_epi8((char)128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return sum + (Integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    for (int part = 0; part < 4; part++)
        sum += (weights >> 8 * part & 255) * (int32_t)(int8_t)(inputs >> 8 * part);
    return sum;
#endif
}

/* a * b + c. The compiler is told to fuse none by itself: it would here and not there, and rows would differ. */
static inline Floats fused(Floats a, Floats b, Floats c) {
#if defined WITH_VNNI
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined WITH_AVX2
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline Floats all(float x) { return x - (Floats){0}; }

/* y and what a group adds to it. */
static inline Floats with_group(Floats y, Integers sum, Floats scale, const Inputs *x, int64_t at) {
    return fused(__builtin_convertvector(sum, Floats), scale * x->scales[at], y);
}

/* y of `count` tokens and LANES outputs. `count` and `kind` are constants where this is inlined. */
static inline __attribute__((always_inline)) void tile(
    const Matrix *matrix, int outputs, const Inputs *x, int first, const int count, const int kind, Floats y[][PARTS]) {
    const int wide = groups(matrix->inputs);
    for (int n = 0; n < count; n++)
        for (int part = 0; part < PARTS; part++)
            y[n][part] = (Floats){0};
    for (int group = 0; group < wide; group++) {
        const int64_t place = (int64_t)outputs * wide + group;
        if (kind == FLOAT) {
            const float *weights = (const float *)matrix->weights + place * GROUP * LANES;
            for (int input = 0; input < GROUP; input++)
                for (int n = 0; n < count; n++)
                    for (int part = 0; part < PARTS; part++)
                        y[n][part] = fused(*(const Floats *)(weights + input * LANES + part * REGISTER),
                                           all(x->floats[((int64_t)(first + n) * wide + group) * GROUP + input]),
                                           y[n][part]);
            continue;
        }
        const uint8_t *bytes = (const uint8_t *)matrix->weights + place * GROUP * LANES;
        const uint16_t *scales = matrix->scales + place * LANES;
        Integers weights[QUADS];
#ifdef WITH_VNNI /* whose registers hold all weights of a tile: token by token */
        const Floats scale = widen_all(scales);
#pragma GCC unroll 8
        for (int j = 0; j < QUADS; j++)
            weights[j] = quad(bytes, j, 0);
#pragma GCC unroll 16
        for (int n = 0; n < count; n++) {
            const int64_t at = (int64_t)(first + n) * wide + group;
            const int32_t *inputs = (const int32_t *)(x->bytes + at * GROUP);
            Integers sum = begun(x->offsets[at]);
#pragma GCC unroll 8
            for (int j = 0; j < QUADS; j++)
                sum = dot(sum, weights[j], inputs[j]);
            y[n][0] = with_group(y[n][0], sum, scale, x, at);
        }
#else
        Integers sums[TILE][PARTS];
        for (int n = 0; n < count; n++)
            for (int part = 0; part < PARTS; part++)
                sums[n][part] = begun(x->offsets[(int64_t)(first + n) * wide + group]);
#pragma GCC unroll 1
        for (int j = 0; j < QUADS; j++) {
            for (int part = 0; part < PARTS; part++)
                weights[part] = quad(bytes, j, part);
#pragma GCC unroll 4
            for (int n = 0; n < count; n++)
                for (int part = 0; part < PARTS; part++) {
                    const int32_t *inputs = (const int32_t *)(x->bytes + ((int64_t)(first + n) * wide + group) * GROUP);
                    sums[n][part] = dot(sums[n][part], weights[part], inputs[j]);
                }
        }
        for (int part = 0; part < PARTS; part++) {
            const Floats scale = widen_all(scales + part * REGISTER);
            for (int n = 0; n < count; n++)
                y[n][part] = with_group(y[n][part], sums[n][part], scale, x, (int64_t)(first + n) * wide + group);
        }
#endif
    }
}

/* Products of LANES outputs from `outputs` * LANES on with `count` tokens; added to `out`, N x width, or written. */
static inline __attribute__((always_inline)) void finish(
    const Matrix *matrix, int outputs, const Inputs *x, int first, const int count, const int kind, int add,
    float *out, int width) {
    Floats y[TILE][PARTS];
    tile(matrix, outputs, x, first, count, kind, y);
    const int lanes = matrix->outputs - outputs * LANES < LANES ? matrix->outputs - outputs * LANES : LANES;
    for (int n = 0; n < count; n++) {
        float *to = out + (int64_t)(first + n) * width + outputs * LANES;
        float part[LANES];
        memcpy(part, y[n], sizeof part);
        for (int lane = 0; lane < lanes; lane++)
            to[lane] = part[lane] + (matrix->bias ? matrix->bias[outputs * LANES + lane] : 0.0f) + (add ? to[lane] : 0);
    }
}

#define FOR_KIND(count)                                                       \
    if (matrix->kind == FLOAT)                                                \
        finish(matrix, outputs, x, first, count, FLOAT, add, out, width);     \
    else                                                                      \
        finish(matrix, outputs, x, first, count, BYTES, add, out, width);

/* LANES outputs of tokens `first` … end - 1. */
static inline void multiply_tokens(const Matrix *matrix, int outputs, const Inputs *x, int first, int end, int add,
                                   float *out, int width) {
#ifdef WITH_VNNI
    for (; first + 16 <= end; first += 16)
        FOR_KIND(16)
    for (; first + 8 <= end; first += 8)
        FOR_KIND(8)
#endif
    for (; first + 4 <= end; first += 4)
        FOR_KIND(4)
    for (; first < end; first++)
        FOR_KIND(1)
}

int omp_get_thread_num(void);
int omp_get_num_threads(void);

/* The whole product; all threads that are here wait for its end. Of few tokens they share out the outputs, so that each
weight is read once; many tokens they share out themselves, as what is done between products: what a core has written is
then read by itself, and two may be far from each other. */
static void multiply(const Matrix *matrix, const Inputs *x, int n, int add, float *out, int width) {
    const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
    if (n >= MANY * threads) {
        const int first = n * thread / threads, end = n * (thread + 1) / threads;
        for (int outputs = 0; outputs < tiles(matrix->outputs); outputs++)
            multiply_tokens(matrix, outputs, x, first, end, add, out, width);
#pragma omp barrier
        return;
    }
#pragma omp for schedule(static)
    for (int outputs = 0; outputs < tiles(matrix->outputs); outputs++)
        multiply_tokens(matrix, outputs, x, 0, n, add, out, width);
}

/* GROUP values of a row as what a product of this kind reads; those past the row's end are zero. */
static inline void give(const Inputs *x, int kind, int64_t at, const float *values, int count) {
    float padded[GROUP] = {0};
    memcpy(padded, values, count * sizeof *values);
    if (kind == FLOAT) {
        memcpy(x->floats + at * GROUP, padded, sizeof padded);
        return;
    }
    int32_t bits[GROUP], most_bits = 0, sum = 0;
    memcpy(bits, padded, sizeof bits);
    for (int i = 0; i < GROUP; i++) { /* without their sign, floats have the order of their bits */
        const int32_t size = bits[i] & 0x7fffffff;
        most_bits = size > most_bits ? size : most_bits;
    }
    float most;
    memcpy(&most, &most_bits, sizeof most);
    if (!(most <= FLT_MAX)) { /* no integer stands for these */
        memset(padded, 0, sizeof padded);
        most = NAN;
    }
    const float ratio = 127.0f / most, inverse = ratio <= FLT_MAX ? ratio : 0; /* inputs may be that small, or zero */
    for (int i = 0; i < GROUP; i++) {
        bits[i] = (int32_t)(padded[i] * inverse + 12582912.0f - 12582912.0f); /* to the nearest integer */
        sum += bits[i];
    }
    int8_t bytes[GROUP]; /* of its own, so that the loop is one of registers */
    for (int i = 0; i < GROUP; i++)
        bytes[i] = (int8_t)bits[i];
    memcpy(x->bytes + at * GROUP, bytes, sizeof bytes);
    x->scales[at] = most / 127.0f;
    x->offsets[at] = -128 * sum;
}

/* One output's weights: a row of the embedding. */
static void unpack(const Matrix *matrix, int64_t output, float *out) {
    const int wide = groups(matrix->inputs), lane = output % LANES;
    for (int i = 0; i < matrix->inputs; i++) {
        const int64_t place = output / LANES * wide + i / GROUP;
        const int input = i % GROUP, byte = input / 4 * 4 * LANES + lane * 4 + input % 4;
        if (matrix->kind == FLOAT) {
            out[i] = ((const float *)matrix->weights)[(place * GROUP + input) * LANES + lane];
        } else {
            const uint8_t q = ((const uint8_t *)matrix->weights)[place * GROUP * LANES + byte];
            out[i] = widen(matrix->scales[place * LANES + lane]) * (q - 128);
        }
    }
}

/* How a matrix may be kept before it is packed, by the numbers that ggml gives these types. */
typedef enum { F32 = 0, F16 = 1, BF16 = 30 } Type;

static inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Any float16, infinities and NaN too. */
static inline float from_half(const uint8_t *bytes) {
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    const int finite = (half & 0x7c00u) != 0x7c00u;
    return finite ? widen(half) : from_bits((half & 0x8000u) << 16 | 0x7f800000u | (half & 0x3ffu) << 13);
}

/* `count` weights of a row, those of a group, as floats. */
static inline void read_group(int type, const uint8_t *row, int64_t group, int count, float *w) {
    if (type == F32) {
        memcpy(w, row + group * GROUP * 4, count * sizeof *w);
    } else if (type == F16) {
        for (int i = 0; i < count; i++)
            w[i] = from_half(row + (group * GROUP + i) * 2);
    } else { /* BF16 is the first half of a float */
        uint16_t halves[GROUP];
        memcpy(halves, row + group * GROUP * 2, count * sizeof *halves);
        for (int i = 0; i < count; i++)
            w[i] = from_bits((uint32_t)halves[i] << 16);
    }
}

/* A group's weights, of which `count` are there, as bytes `q` and their scale. Returns whether these may stand for the
weights: float16 has to reach the scale. */
static inline int round_group(float *w, int count, uint16_t *scale, uint8_t *q) {
    const int32_t largest = 0x477fe000; /* 65504, float16's, as the bits of a float */
    int32_t bits[GROUP], most = 0;
    memcpy(bits, w, count * sizeof *bits);
    for (int i = 0; i < count; i++) { /* without their sign, floats have the order of their bits, and NaN is above */
        const int32_t size = bits[i] & INT32_MAX;
        most = size > most ? size : most;
    }
    if (most > largest)
        return 0;
    *scale = narrow(from_bits((uint32_t)most) / 127);
    const float step = widen(*scale), divisor = step != 0 ? step : 1;
    for (int i = 0; i < GROUP; i++) {
        float nearest = rintf((w[i] + 128 * step) / divisor);
        nearest = nearest < 0 ? 0 : nearest;
        q[i] = (uint8_t)(int32_t)(nearest > 255 ? 255 : nearest);
    }
    return 1;
}

/* Weights, outputs x inputs, rows of a type, into tiles of a kind. Returns whether these may stand for them; the first
group that may not ends the work. */
int pack(int kind, int type, int64_t outputs, int64_t inputs, const uint8_t *rows, int64_t row_bytes, void *packed,
         uint16_t *scales, int threads) {
    int stands = 1;
    const int wide = groups((int)inputs);
#pragma omp parallel for num_threads(threads) schedule(static) shared(stands)
    for (int64_t place = 0; place < tiles((int)outputs) * (int64_t)wide; place++) {
        const int64_t group = place % wide, left = inputs - group * GROUP;
        for (int lane = 0; lane < LANES; lane++) {
            int still;
#pragma omp atomic read
            still = stands;
            if (!still)
                break;
            const int64_t output = place / wide * LANES + lane;
            const int count = output >= outputs ? 0 : left < GROUP ? (int)left : GROUP;
            const uint8_t *row = rows + output * row_bytes;
            uint16_t *scale = scales + place * LANES + lane;
            uint8_t q[GROUP] = {0};
            float w[GROUP] = {0};
            if (count)
                read_group(type, row, group, count, w);
            if (kind == FLOAT) {
                for (int i = 0; i < GROUP; i++)
                    ((float *)packed)[(place * GROUP + i) * LANES + lane] = w[i];
                continue;
            }
            if (!round_group(w, count, scale, q)) {
#pragma omp atomic write
                stands = 0;
            }
            for (int i = 0; i < GROUP; i += 4)
                memcpy((uint8_t *)packed + place * GROUP * LANES + i * LANES + lane * 4, q + i, 4);
        }
    }
    return stands;
}
