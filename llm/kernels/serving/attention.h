/* Attention of tokens over a cache of keys and values, for decode.c.

The heads of queries that share one head of keys and values are computed together, so that each key and value is read
once for all of them. Keys and values are floats, or float16 numbers; sums are always floats. Each head is computed by
the same operations in the same order, however many there are.
Names: D width of a head; `last` the position of the token, which sees 0 … last of its row. */

typedef struct {
    void *keys, *values;
    int64_t layer, row, head, positions; /* numbers from one to the next; how many positions, which follow each other */
    int32_t half;                        /* whether the numbers are float16 */
} Cache;

enum { TOGETHER = 4 }; /* heads whose sums the registers hold at once */
enum { WIDE = REGISTER / 4 }; /* registers of values that are weighed at once, for each of these heads */

/* e^x within 2 units of the last place; written so that a loop over it is vectorised. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float whole = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: what is left of the sum is rounded to an integer */
    int32_t power;
    memcpy(&power, &whole, sizeof power);
    whole -= 12582912.0f;
    float r = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    float y = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f
              + r * 0.00138888889f)))));
    uint32_t bits = ((uint32_t)power + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return y * scale;
}

/* Keep `count` numbers in the cache. Those that float16 does not reach become infinite: a broken model must look so. */
static inline void keep(int half, void *cache, int64_t at, const float *numbers, int count) {
    if (!half) {
        memcpy((float *)cache + at, numbers, count * sizeof *numbers);
        return;
    }
    for (int i = 0; i < count; i++) {
        const float x = numbers[i];
        const uint16_t beyond = (x < 0 ? 0xfc00u : 0x7c00u) | (x != x ? 0x200u : 0u);
        ((uint16_t *)cache)[at + i] = fabsf(x) < 65520.0f ? narrow(x) : beyond;
    }
}

/* A register of the cache. */
static inline __attribute__((always_inline)) Floats kept(const int half, const void *cache, int64_t at) {
    return half ? widen_all((const uint16_t *)cache + at) : *(const Floats *)((const float *)cache + at);
}

/* Its first `count` numbers, and zeros. */
static inline Floats kept_end(const int half, const void *cache, int64_t at, int count) {
    uint8_t padded[sizeof(Floats)] = {0};
    const int size = half ? 2 : 4;
    memcpy(padded, (const uint8_t *)cache + at * size, count * size);
    return kept(half, padded, 0);
}

/* The sum of each of REGISTER registers, in their order: pairs are added until one register is left. */
static inline __attribute__((always_inline)) Floats totals(Floats sums[REGISTER]) {
#if defined WITH_VNNI
#define HALVES(a, b, way) (Floats)_mm512_shuffle_f32x4((__m512)(a), (__m512)(b), way)
#define LOW(a, b) (Floats)_mm512_unpacklo_ps((__m512)(a), (__m512)(b))
#define HIGH(a, b) (Floats)_mm512_unpackhi_ps((__m512)(a), (__m512)(b))
#pragma GCC unroll 8
    for (int i = 0; i < REGISTER / 2; i++) {
        const Floats a = sums[i / 4 * 8 + i % 4], b = sums[i / 4 * 8 + i % 4 + 4];
        sums[i] = HALVES(a, b, 0x44) + HALVES(a, b, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < REGISTER / 4; i++)
        sums[i] = HALVES(sums[i], sums[i + 4], 0x88) + HALVES(sums[i], sums[i + 4], 0xdd);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        sums[i] = LOW(sums[i], sums[i + 2]) + HIGH(sums[i], sums[i + 2]);
    return LOW(sums[0], sums[1]) + HIGH(sums[0], sums[1]);
#elif defined WITH_AVX2
#pragma GCC unroll 2
    for (int left = REGISTER / 2; left > 1; left /= 2)
#pragma GCC unroll 4
        for (int i = 0; i < left; i++)
            sums[i] = (Floats)_mm256_hadd_ps((__m256)sums[2 * i], (__m256)sums[2 * i + 1]);
    return (Floats)_mm256_permute2f128_ps((__m256)sums[0], (__m256)sums[1], 0x20) +
           (Floats)_mm256_permute2f128_ps((__m256)sums[0], (__m256)sums[1], 0x31);
#else
    Floats all_sums;
    for (int k = 0; k < REGISTER; k++) {
        for (int left = REGISTER / 2; left > 0; left /= 2)
            for (int lane = 0; lane < left; lane++)
                sums[k][lane] += sums[k][lane + left];
        all_sums[k] = sums[k][0];
    }
    return all_sums;
#endif
}

/* Scores of `count` queries, count x D, with the keys 0 … last, to `scores`, a row of `room` floats a query. */
static inline __attribute__((always_inline)) void score(
    const int half, const int count, const float *queries, const void *keys, int64_t last, int width, float *scores,
    int64_t room) {
    const float root = 1.0f / sqrtf((float)width);
    for (int64_t s = 0; s <= last; s += REGISTER) {
        Floats sums[TOGETHER][REGISTER];
        for (int k = 0; k < REGISTER; k++) {
            const int64_t key = (s + k < last ? s + k : last) * width; /* past the last it is scored again */
            Floats products[TOGETHER] = {{0}};
            int i = 0;
            for (; i + REGISTER <= width; i += REGISTER) {
                const Floats part = kept(half, keys, key + i);
#pragma GCC unroll 4
                for (int q = 0; q < count; q++)
                    products[q] = fused(part, *(const Floats *)(queries + q * width + i), products[q]);
            }
            if (i < width) {
                const Floats part = kept_end(half, keys, key + i, width - i);
                for (int q = 0; q < count; q++)
                    products[q] = fused(part, kept_end(0, queries, q * width + i, width - i), products[q]);
            }
#pragma GCC unroll 4
            for (int q = 0; q < count; q++)
                sums[q][k] = products[q];
        }
        for (int q = 0; q < count; q++)
            *(Floats *)(scores + q * room + s) = totals(sums[q]) * root;
    }
}

/* e to the scores less the largest of them; returns their sum. */
static inline float exponentials(float *scores, int64_t count) {
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t s = 0; s < count; s++)
        most = scores[s] > most ? scores[s] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t s = 0; s < count; s++) {
        scores[s] = exponential(scores[s] - most);
        sum += scores[s];
    }
    return sum;
}

/* Weighted sums of `parts` registers of the values from lane `i` on, or of the lanes that are left, for `count`
heads. */
static inline __attribute__((always_inline)) void weigh(
    const int half, const int count, const int parts, const void *values, int64_t last, int width, int i,
    const float *scores, int64_t room, const float *sums_of_scores, float *out) {
    const int lanes = width - i < REGISTER ? width - i : REGISTER;
    Floats sums[TOGETHER][WIDE] = {{{0}}};
    for (int64_t s = 0; s <= last; s++)
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++) {
            const int64_t at = s * width + i + part * REGISTER;
            const Floats value = lanes < REGISTER ? kept_end(half, values, at, lanes) : kept(half, values, at);
#pragma GCC unroll 4
            for (int q = 0; q < count; q++)
                sums[q][part] = fused(all(scores[q * room + s]), value, sums[q][part]);
        }
    for (int q = 0; q < count; q++)
        for (int part = 0; part < parts; part++) {
            const Floats mean = sums[q][part] / sums_of_scores[q];
            memcpy(out + q * width + i + part * REGISTER, &mean, lanes * sizeof(float));
        }
}

/* The outputs of `count` heads, count x D, of queries that share keys and values. */
static inline __attribute__((always_inline)) void attend(
    const int half, const int count, const float *queries, const void *keys, const void *values, int64_t last,
    int width, float *scores, int64_t room, float *out) {
    score(half, count, queries, keys, last, width, scores, room);
    float sums[TOGETHER];
    for (int q = 0; q < count; q++)
        sums[q] = exponentials(scores + q * room, last + 1);
    int i = 0;
    for (; i + WIDE * REGISTER <= width; i += WIDE * REGISTER)
        weigh(half, count, WIDE, values, last, width, i, scores, room, sums, out);
    for (; i < width; i += REGISTER)
        weigh(half, count, 1, values, last, width, i, scores, room, sums, out);
}

/* Floats that `attend_heads` needs for a cache of so many positions. */
static inline int64_t scores_room(int64_t positions) { return (positions + REGISTER - 1) / REGISTER * REGISTER; }

/* The same for any number of heads, and with keys and values that begin `at` so many numbers in the cache. */
static void attend_heads(const Cache *cache, int64_t at, const float *queries, int64_t last, int width, int heads,
                         float *scores, float *out) {
    const int64_t room = scores_room(cache->positions), size = cache->half ? 2 : 4;
    const void *keys = (const uint8_t *)cache->keys + at * size, *values = (const uint8_t *)cache->values + at * size;
#define ATTEND(half, count) attend(half, count, queries, keys, values, last, width, scores, room, out)
#define ATTEND_TOGETHER(half)                        \
    switch (heads < TOGETHER ? heads : TOGETHER) {   \
    case 1: ATTEND(half, 1); break;                  \
    case 2: ATTEND(half, 2); break;                  \
    case 3: ATTEND(half, 3); break;                  \
    default: ATTEND(half, TOGETHER);                 \
    }
    for (; heads > 0; heads -= TOGETHER, queries += TOGETHER * width, out += TOGETHER * width) {
        if (cache->half)
            ATTEND_TOGETHER(1)
        else
            ATTEND_TOGETHER(0)
    }
}
