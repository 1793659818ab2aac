/* Products of bfloat16 matrices with float32 sums, for flash.c and cross_entropy.c, on AVX-512 with bfloat16.

The processor multiplies a pair of numbers with a pair in each of 16 lanes. So a matrix is read as pairs of what a
product sums over: the left one TALL rows at a time, of which a pair goes to all lanes, the right one in panels of WIDE
columns, packed once. The sums of TALL x WIDE products stay in registers until they are whole, and what is done to them
next finds them there. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, TALL = 6, WIDE = 64, PARTS = WIDE / LANES, ALIGNMENT = 64 };
enum { TILE = 4 }; /* rows at a time where LANES is to be a multiple of them */

typedef uint16_t Half __attribute__((may_alias)); /* bfloat16 */
typedef uint32_t Pair __attribute__((may_alias)); /* two of them, the first in the lower bits */
typedef __m512 Sums[TALL][PARTS];

static inline int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

static inline __m512 widen(__m256i x) { return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); } /* to the nearest, to even */
static inline __m256i load(const Half *from) { return _mm256_loadu_si256((const __m256i *)from); }
static inline void store(Half *to, __m256i x) { _mm256_storeu_si256((__m256i *)to, x); }

static inline float widen_one(Half x) {
    const uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static inline Half narrow_one(float x) { return (Half)_mm256_extract_epi16(narrow(_mm512_set1_ps(x)), 0); }

/* What stands one below the other in two rows, as LANES pairs. */
static inline void store_pairs(Pair *to, __m256i upper, __m256i lower) {
    _mm512_storeu_si512(
        to, _mm512_or_si512(_mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16)));
}

/* e^x within 3e-6 of itself; of minus infinity so little that bfloat16 has zero for it, of what is no number none. */
static inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-100.0f), x); /* which gives the second where one is no number */
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693145752f), x);
    r = _mm512_fnmadd_ps(whole, _mm512_set1_ps(1.42860677e-6f), r);
    __m512 y = _mm512_set1_ps(0.00833333333f);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.0416666667f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.166666667f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.5f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

static inline __attribute__((always_inline)) void clear(Sums sums) {
    for (int m = 0; m < TALL; m++)
        for (int j = 0; j < PARTS; j++)
            sums[m][j] = _mm512_setzero_ps();
}

/* Adds the product of `tall` rows, `row` pairs apart, whose pairs lie `step` apart, with a panel, `pairs` x WIDE.
`tall` is a constant where this is inlined. */
static inline __attribute__((always_inline)) void multiply(
    const int tall, int64_t pairs, const Pair *left, int64_t row, int64_t step, const Pair *panel, Sums sums) {
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh right[PARTS];
#pragma GCC unroll 4
        for (int j = 0; j < PARTS; j++)
            right[j] = (__m512bh)_mm512_loadu_si512(panel + p * WIDE + j * LANES);
#pragma GCC unroll 6
        for (int m = 0; m < tall; m++) {
            const __m512bh pair = (__m512bh)_mm512_set1_epi32(left[m * row + p * step]);
#pragma GCC unroll 4
            for (int j = 0; j < PARTS; j++)
                sums[m][j] = _mm512_dpbf16_ps(sums[m][j], pair, right[j]);
        }
    }
}

/* Memory for all `parts`, one behind the other, each at the begin of a cache line; NULL where there is none. */
static void *make_room(const size_t *sizes, void **parts, int count) {
    size_t all = 0;
    for (int i = 0; i < count; i++)
        all += padded(sizes[i], ALIGNMENT);
    char *room = aligned_alloc(ALIGNMENT, all), *at = room;
    for (int i = 0; i < count; at += padded(sizes[i++], ALIGNMENT))
        parts[i] = at;
    return room;
}
