/* A step of the GPT for many tokens in one call: from token ids and their positions to the normalised stream.

The same computation as llm/model, which is its oracle, for every shape that llm/config.py can describe. What it is for
is a CPU that makes texts: there a step is many small products, and between them torch spends more time than on them.

Weights are packed once, in tiles of LANES outputs x GROUP inputs, so that a register holds the same inputs of LANES
outputs and no sum ever crosses its lanes. A tile is kept in one of three ways:

- FLOAT: the weights themselves;
- BYTES: weight = scale * (q - 128), q of 8 bits, a scale an output;
- NIBBLES: weight = scale * q + least, q of 4 bits, which is how GGUF's Q4_1 has them.

With the last two, inputs are rounded to 8 bits, each GROUP by its own largest value, and products are sums of integers
within a group. Each token is computed by itself, by the same operations in the same order whatever else is in the step:
so a text is the same alone and among others, to the bit.

All threads walk through one function; a product is shared out by outputs, the rest by tokens, heads and groups.
Names: N tokens of a step, C width of the model, D width of a head, `stream` N x C. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16, GROUP = 32, QUADS = GROUP / 4, STEP = 128, ALIGNMENT = 64 };
enum { AHEAD = 8 }; /* tiles between the one that is asked of memory and the one that is multiplied */
#ifdef __AVX512F__
enum { TILE = 16 }; /* tokens whose sums the registers hold beside a tile of weights */
#else
enum { TILE = 4 };
#endif

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef float Half __attribute__((vector_size(2 * LANES)));
typedef float Quarter __attribute__((vector_size(LANES)));

typedef enum { FLOAT, BYTES, NIBBLES } Kind;
typedef enum { GELU, RELU2, SWIGLU } Bend;

typedef struct {
    int32_t kind, outputs, inputs;
    const void *weights; /* tiles: outputs by LANES, in these inputs by GROUP */
    const uint16_t *scales; /* float16, LANES a tile, and with NIBBLES the LANES least weights */
    const float *bias;   /* outputs, or NULL */
} Matrix;

typedef struct {
    const float *weight, *bias; /* bias may be NULL */
} Norm;

typedef struct {
    Norm attention_norm, mlp_norm;
    Matrix query_key_value, attention_projection, expand, mlp_projection; /* with SWIGLU `expand` is gate, then expand */
} Block;

typedef struct {
    int32_t n_layer, n_embd, n_head, kv_heads, hidden, rms, qk_norm, bend;
    float epsilon;
    const float *positions;     /* context x C, or NULL */
    const float *cosine, *sine; /* context x D, or NULL */
    Matrix embedding, output;   /* the same where tied */
    Norm norm;
    const Block *blocks;
} Model;

typedef struct {
    float *keys, *values;
    int64_t layer, row, head, positions; /* floats from one to the next; how many positions, which follow each other */
} Cache;

/* What a product reads: N rows, padded with zeros to whole groups; as floats, or as bytes, a scale and a sum a group. */
typedef struct {
    float *floats;
    int8_t *bytes;
    float *scales, *sums; /* a group's sum, as a float, and -128 times its bytes' sum, as BYTES needs it */
    int32_t *offsets;
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
#ifdef __AVX512F__
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#else
    Floats wide;
    for (int lane = 0; lane < LANES; lane++)
        wide[lane] = widen(halves[lane]);
    return wide;
#endif
}

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
    int32_t bits = (int32_t)((uint32_t)power + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return y * scale;
}

static inline float silu(float x) { return x / (1.0f + exponential(-x)); }

static inline float gelu(float x) {
    float u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x - x / (1.0f + exponential(2.0f * u)); /* 0.5 x (1 + tanh u) */
}

static inline Integers quad(const uint8_t *weights) { return *(const Integers *)weights; }

/* To each lane: the products of its 4 unsigned bytes with the 4 signed ones that all lanes share. */
static inline Integers dot(Integers sum, Integers weights, int32_t inputs) {
#ifdef __AVX512VNNI__
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(inputs));
#else
    for (int part = 0; part < 4; part++)
        sum += (weights >> 8 * part & 255) * (int32_t)(int8_t)(inputs >> 8 * part);
    return sum;
#endif
}

/* a * b + c. The compiler is told to fuse none by itself: it would here and not there, and rows would differ. */
static inline Floats fused(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}

static inline Floats all(float x) { return x - (Floats){0}; }

/* y of `count` tokens and LANES outputs. `count` and `kind` are constants where this is inlined. */
static inline __attribute__((always_inline)) void tile(
    const Matrix *matrix, int outputs, const Inputs *x, int first, const int count, const int kind, Floats *y) {
    const int wide = groups(matrix->inputs);
    for (int n = 0; n < count; n++)
        y[n] = (Floats){0};
    for (int group = 0; group < wide; group++) {
        const int64_t place = (int64_t)outputs * wide + group;
        if (kind == FLOAT) {
            const float *weights = (const float *)matrix->weights + place * GROUP * LANES;
            for (int input = 0; input < GROUP; input++)
                for (int n = 0; n < count; n++)
                    y[n] = fused(*(const Floats *)(weights + input * LANES),
                                 all(x->floats[((int64_t)(first + n) * wide + group) * GROUP + input]), y[n]);
            continue;
        }
        Integers weights[QUADS];
        const uint16_t *scales = matrix->scales + place * LANES * (kind == NIBBLES ? 2 : 1);
        if (kind == BYTES) {
            const uint8_t *bytes = (const uint8_t *)matrix->weights + place * GROUP * LANES;
#pragma GCC unroll 8
            for (int j = 0; j < QUADS; j++)
                weights[j] = quad(bytes + j * 4 * LANES);
#pragma GCC unroll 8
            for (int j = 0; j < QUADS; j++)
                __builtin_prefetch(bytes + AHEAD * GROUP * LANES + j * 4 * LANES);
        } else {
            const uint8_t *bytes = (const uint8_t *)matrix->weights + place * GROUP / 2 * LANES;
#pragma GCC unroll 4
            for (int j = 0; j < QUADS / 2; j++) {
                Integers both = quad(bytes + j * 4 * LANES);
                weights[j] = both & 0x0f0f0f0f;
                weights[j + QUADS / 2] = both >> 4 & 0x0f0f0f0f;
                __builtin_prefetch(bytes + AHEAD * GROUP / 2 * LANES + j * 4 * LANES);
            }
        }
        const Floats scale = widen_all(scales), least = kind == NIBBLES ? widen_all(scales + LANES) : scale;
#pragma GCC unroll 16
        for (int n = 0; n < count; n++) {
            const int64_t at = (int64_t)(first + n) * wide + group;
            const int32_t *bytes = (const int32_t *)(x->bytes + at * GROUP);
            Integers sum = {0};
            if (kind == BYTES)
                sum += x->offsets[at];
#pragma GCC unroll 8
            for (int j = 0; j < QUADS; j++)
                sum = dot(sum, weights[j], bytes[j]);
            y[n] = fused(__builtin_convertvector(sum, Floats), scale * x->scales[at], y[n]);
            if (kind == NIBBLES)
                y[n] = fused(least, all(x->sums[at]), y[n]);
        }
    }
}

/* Products of LANES outputs from `outputs` * LANES on with `count` tokens; added to `out` or written there, N x width. */
static inline __attribute__((always_inline)) void finish(
    const Matrix *matrix, int outputs, const Inputs *x, int first, const int count, const int kind, int add,
    float *out, int width) {
    Floats y[TILE];
    tile(matrix, outputs, x, first, count, kind, y);
    const int lanes = matrix->outputs - outputs * LANES < LANES ? matrix->outputs - outputs * LANES : LANES;
    for (int n = 0; n < count; n++) {
        float *to = out + (int64_t)(first + n) * width + outputs * LANES;
        float part[LANES];
        memcpy(part, &y[n], sizeof part);
        for (int lane = 0; lane < lanes; lane++)
            to[lane] = part[lane] + (matrix->bias ? matrix->bias[outputs * LANES + lane] : 0.0f) + (add ? to[lane] : 0);
    }
}

#define FOR_KIND(count)                                                                                   \
    switch (matrix->kind) {                                                                               \
    case FLOAT: finish(matrix, outputs, x, first, count, FLOAT, add, out, width); break;                  \
    case BYTES: finish(matrix, outputs, x, first, count, BYTES, add, out, width); break;                  \
    default: finish(matrix, outputs, x, first, count, NIBBLES, add, out, width);                          \
    }

/* The whole product, shared out by outputs among the threads that are here; all wait for its end. */
static void multiply(const Matrix *matrix, const Inputs *x, int n, int add, float *out, int width) {
#pragma omp for schedule(static)
    for (int outputs = 0; outputs < tiles(matrix->outputs); outputs++) {
        int first = 0;
#ifdef __AVX512F__
        for (; first + 16 <= n; first += 16)
            FOR_KIND(16)
        for (; first + 8 <= n; first += 8)
            FOR_KIND(8)
#endif
        for (; first + 4 <= n; first += 4)
            FOR_KIND(4)
        for (; first < n; first++)
            FOR_KIND(1)
    }
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
    const float inverse = most > 0 ? 127.0f / most : 0;
    for (int i = 0; i < GROUP; i++) {
        bits[i] = (int32_t)(padded[i] * inverse + 12582912.0f - 12582912.0f); /* to the nearest integer */
        sum += bits[i];
    }
    for (int i = 0; i < GROUP; i++)
        x->bytes[at * GROUP + i] = (int8_t)bits[i];
    x->scales[at] = most / 127.0f;
    x->sums[at] = most / 127.0f * (float)sum;
    x->offsets[at] = -128 * sum;
}

static void normalise(const Model *model, const Norm *norm, const float *stream, float *out) {
    const int width = model->n_embd;
    float sum = 0, squares = 0;
    if (!model->rms) {
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < width; i++)
            sum += stream[i];
    }
    const float mean = sum / width;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < width; i++)
        squares += (stream[i] - mean) * (stream[i] - mean);
    const float scale = 1.0f / sqrtf(squares / width + model->epsilon);
    for (int i = 0; i < width; i++)
        out[i] = (stream[i] - mean) * scale * norm->weight[i] + (norm->bias ? norm->bias[i] : 0.0f);
}

static void normalise_inputs(const Model *model, const Norm *norm, int kind, const float *stream, float *row,
                             const Inputs *x, int n) {
    const int width = model->n_embd, wide = groups(width);
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++) {
        normalise(model, norm, stream + (int64_t)i * width, row);
        for (int group = 0; group < wide; group++)
            give(x, kind, (int64_t)i * wide + group, row + group * GROUP,
                 width - group * GROUP < GROUP ? width - group * GROUP : GROUP);
    }
}

/* Queries and keys of one token at a position: scaled to one size (Henry et al. 2020), turned (Su et al. 2021). */
static void turn(const Model *model, float *x, int64_t position) {
    const int width = model->n_embd / model->n_head, half = width / 2;
    if (model->qk_norm) {
        float squares = 0;
        for (int i = 0; i < width; i++)
            squares += x[i] * x[i];
        const float scale = 1.0f / sqrtf(squares / width + 1.1920929e-7f); /* torch's least, float32's epsilon */
        for (int i = 0; i < width; i++)
            x[i] *= scale;
    }
    if (model->cosine) {
        const float *cosine = model->cosine + position * width, *sine = model->sine + position * width;
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cosine[i] - b * sine[i];
            x[i + half] = b * cosine[i + half] + a * sine[i + half];
        }
    }
}

static inline float total(Floats x) {
    Half halves[2];
    memcpy(halves, &x, sizeof x);
    halves[0] += halves[1];
    Quarter quarters[2];
    memcpy(quarters, halves, sizeof quarters);
    const Quarter sum = quarters[0] + quarters[1];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* `count` * LANES values of what a head hears: the weighted sum of its values. */
static inline __attribute__((always_inline)) void hear(const float *values, int64_t last, int width, const float *scores,
                                                       float all_scores, const int count, float *out) {
    Floats sums[4] = {{0}};
    for (int64_t s = 0; s <= last; s++)
#pragma GCC unroll 4
        for (int i = 0; i < count; i++)
            sums[i] = fused(all(scores[s]), *(const Floats *)(values + s * width + i * LANES), sums[i]);
    for (int i = 0; i < count; i++)
        *(Floats *)(out + i * LANES) = sums[i] / all_scores;
}

/* What one head of one token hears of positions 0 … last of its row of the cache. */
static void attend(const float *query, const float *keys, const float *values, int64_t last, int width, float *scores,
                   float *out) {
    const float root = 1.0f / sqrtf((float)width);
    float most = -INFINITY, all_scores = 0;
    for (int64_t s = 0; s <= last; s++) {
        const float *key = keys + s * width;
        Floats sums = {0};
        int i = 0;
        for (; i + LANES <= width; i += LANES)
            sums = fused(*(const Floats *)(query + i), *(const Floats *)(key + i), sums);
        float score = total(sums);
        for (; i < width; i++)
            score += query[i] * key[i];
        scores[s] = score * root;
        most = scores[s] > most ? scores[s] : most;
    }
#pragma omp simd reduction(+ : all_scores)
    for (int64_t s = 0; s <= last; s++) {
        scores[s] = exponential(scores[s] - most);
        all_scores += scores[s];
    }
    int i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES)
        hear(values + i, last, width, scores, all_scores, 4, out + i);
    for (; i + LANES <= width; i += LANES)
        hear(values + i, last, width, scores, all_scores, 1, out + i);
    for (; i < width; i++) {
        float sum = 0;
        for (int64_t s = 0; s <= last; s++)
            sum += scores[s] * values[s * width + i];
        out[i] = sum / all_scores;
    }
}

static void embed(const Model *model, int64_t token, int64_t position, float *out) {
    const Matrix *matrix = &model->embedding;
    const int wide = groups(model->n_embd), lane = token % LANES;
    for (int i = 0; i < model->n_embd; i++) {
        const int64_t place = token / LANES * wide + i / GROUP;
        const int input = i % GROUP, byte = input / 4 * 4 * LANES + lane * 4 + input % 4;
        if (matrix->kind == FLOAT)
            out[i] = ((const float *)matrix->weights)[(place * GROUP + input) * LANES + lane];
        else if (matrix->kind == BYTES)
            out[i] = widen(matrix->scales[place * LANES + lane])
                     * (((const uint8_t *)matrix->weights)[place * GROUP * LANES + byte] - 128);
        else {
            const uint16_t *scales = matrix->scales + place * 2 * LANES + lane;
            const uint8_t both = ((const uint8_t *)matrix->weights)[place * GROUP / 2 * LANES + byte % (GROUP / 2 * LANES)];
            out[i] = widen(scales[0]) * (input < GROUP / 2 ? both & 15 : both >> 4) + widen(scales[LANES]);
        }
        out[i] += model->positions ? model->positions[position * model->n_embd + i] : 0.0f;
    }
}

/* Room of a step: every pointer of it lies in one block of memory, whose size `lay_out` gives. */
typedef struct {
    float *stream, *wide, *heard, *rows, *scores;
    Inputs x;
} Room;

static size_t lay_out(const Model *model, int n, int64_t positions, int threads, char *memory, Room *room) {
    const int qkv = model->n_embd / model->n_head * (model->n_head + 2 * model->kv_heads);
    const int expanded = model->hidden * (model->bend == SWIGLU ? 2 : 1);
    const int most = groups(model->hidden > model->n_embd ? model->hidden : model->n_embd);
    size_t used = 0;
#define PLACE(pointer, count)                                                        \
    pointer = (void *)(memory + used);                                               \
    used += ((count) * sizeof *(pointer) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    PLACE(room->stream, (size_t)n * model->n_embd)
    PLACE(room->wide, (size_t)n * (qkv > expanded ? qkv : expanded))
    PLACE(room->heard, (size_t)n * model->n_embd)
    PLACE(room->rows, (size_t)threads * model->n_embd)
    PLACE(room->scores, (size_t)threads * positions)
    PLACE(room->x.floats, (size_t)n * most * GROUP)
    PLACE(room->x.bytes, (size_t)n * most * GROUP)
    PLACE(room->x.scales, (size_t)n * most)
    PLACE(room->x.sums, (size_t)n * most)
    PLACE(room->x.offsets, (size_t)n * most)
    return used;
}

/* `n` tokens, all at once; `thread` is the number of the one that is here. */
static void walk(const Model *model, int n, const int64_t *tokens, const int64_t *rows, const int64_t *positions,
                 const Cache *cache, float *out, const Room *room, int thread) {
    const int width = model->n_embd, heads = model->n_head, shared = model->kv_heads;
    const int head = width / heads, qkv = head * (heads + 2 * shared), hidden = model->hidden;
    const int expanded = hidden * (model->bend == SWIGLU ? 2 : 1);
    const Inputs *x = &room->x;
    float *row = room->rows + (size_t)thread * width, *scores = room->scores + thread * cache->positions;
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++)
        embed(model, tokens[i], positions[i], room->stream + (int64_t)i * width);
    for (int layer = 0; layer < model->n_layer; layer++) {
        const Block *block = model->blocks + layer;
        const int kind = block->query_key_value.kind;
        normalise_inputs(model, &block->attention_norm, kind, room->stream, row, x, n);
        multiply(&block->query_key_value, x, n, 0, room->wide, qkv);
#pragma omp for schedule(static) collapse(2)
        for (int i = 0; i < n; i++)
            for (int k = 0; k < heads + 2 * shared; k++) {
                float *part = room->wide + (int64_t)i * qkv + k * head;
                if (k < heads + shared)
                    turn(model, part, positions[i]);
                if (k >= heads) {
                    float *kept = k < heads + shared ? cache->keys : cache->values;
                    memcpy(kept + layer * cache->layer + rows[i] * cache->row + (k - heads) % shared * cache->head
                               + positions[i] * head,
                           part, head * sizeof *part);
                }
            }
#pragma omp for schedule(static) collapse(2)
        for (int i = 0; i < n; i++)
            for (int h = 0; h < heads; h++) {
                const int64_t at = layer * cache->layer + rows[i] * cache->row + h / (heads / shared) * cache->head;
                attend(room->wide + (int64_t)i * qkv + h * head, cache->keys + at, cache->values + at, positions[i],
                       head, scores, room->heard + (int64_t)i * width + h * head);
            }
#pragma omp for schedule(static) collapse(2)
        for (int i = 0; i < n; i++)
            for (int group = 0; group < groups(width); group++) {
                const int from = group * GROUP, count = width - from < GROUP ? width - from : GROUP;
                give(x, block->attention_projection.kind, (int64_t)i * groups(width) + group,
                     room->heard + (int64_t)i * width + from, count);
            }
        multiply(&block->attention_projection, x, n, 1, room->stream, width);
        normalise_inputs(model, &block->mlp_norm, block->expand.kind, room->stream, row, x, n);
        multiply(&block->expand, x, n, 0, room->wide, expanded);
#pragma omp for schedule(static) collapse(2)
        for (int i = 0; i < n; i++)
            for (int group = 0; group < groups(hidden); group++) {
                const int from = group * GROUP, count = hidden - from < GROUP ? hidden - from : GROUP;
                const float *y = room->wide + (int64_t)i * expanded + from;
                float bent[GROUP];
                if (model->bend == SWIGLU)
                    for (int j = 0; j < count; j++)
                        bent[j] = silu(y[j]) * y[hidden + j];
                else if (model->bend == GELU)
                    for (int j = 0; j < count; j++)
                        bent[j] = gelu(y[j]);
                else
                    for (int j = 0; j < count; j++)
                        bent[j] = y[j] > 0 ? y[j] * y[j] : 0;
                give(x, block->mlp_projection.kind, (int64_t)i * groups(hidden) + group, bent, count);
            }
        multiply(&block->mlp_projection, x, n, 1, room->stream, width);
    }
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++)
        normalise(model, &model->norm, room->stream + (int64_t)i * width, out + (int64_t)i * width);
}

int omp_get_thread_num(void);

/* The normalised stream of N tokens, to `out`, N x C; a row's tokens in the order of their positions. Keys and values go
into the cache. Returns 0; 1 without memory, 2 for a token that the model, or 3 for a position that the
cache does not have. */
int features(const Model *model, int64_t n, const int64_t *tokens, const int64_t *rows, const int64_t *positions,
             const Cache *cache, float *out, int threads) {
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= model->embedding.outputs)
            return 2;
        if (positions[i] < 0 || positions[i] >= cache->positions)
            return 3;
    }
    Room room;
    const int most = n < STEP ? (int)n : STEP;
    char *memory = aligned_alloc(ALIGNMENT, lay_out(model, most, cache->positions, threads, NULL, &room));
    if (!memory)
        return 1;
    lay_out(model, most, cache->positions, threads, memory, &room);
#pragma omp parallel num_threads(threads)
    for (int64_t i = 0; i < n; i += STEP)
        walk(model, n - i < STEP ? (int)(n - i) : STEP, tokens + i, rows + i, positions + i, cache,
             out + i * model->n_embd, &room, omp_get_thread_num());
    free(memory);
    return 0;
}

/* Logits of N rows of features, to `out`, N x vocabulary. Returns 0, or 1 without memory. */
int logits(const Model *model, int64_t n, const float *stream, float *out, int threads) {
    Room room;
    const int most = n < STEP ? (int)n : STEP, width = model->n_embd, wide = groups(width);
    char *memory = aligned_alloc(ALIGNMENT, lay_out(model, most, 0, threads, NULL, &room));
    if (!memory)
        return 1;
    lay_out(model, most, 0, threads, memory, &room);
#pragma omp parallel num_threads(threads)
    for (int64_t i = 0; i < n; i += STEP) {
        const int count = n - i < STEP ? (int)(n - i) : STEP;
#pragma omp for schedule(static) collapse(2)
        for (int j = 0; j < count; j++)
            for (int group = 0; group < wide; group++)
                give(&room.x, model->output.kind, (int64_t)j * wide + group, stream + (i + j) * width + group * GROUP,
                     width - group * GROUP < GROUP ? width - group * GROUP : GROUP);
        multiply(&model->output, &room.x, count, 0, out + i * model->output.outputs, model->output.outputs);
    }
    free(memory);
    return 0;
}

/* Weights, outputs x inputs, into tiles of a kind. Returns whether they are exactly what the tiles then say; for NIBBLES,
of which one weight that is not ends the work, anything else is of no use. */
int pack(int kind, int64_t outputs, int64_t inputs, const float *weights, void *packed, uint16_t *scales, int threads) {
    int exact = 1;
    const int wide = groups((int)inputs);
#pragma omp parallel for num_threads(threads) schedule(static) shared(exact)
    for (int64_t place = 0; place < tiles((int)outputs) * (int64_t)wide; place++)
        for (int lane = 0; lane < LANES; lane++) {
            int still;
#pragma omp atomic read
            still = exact;
            if (kind == NIBBLES && !still)
                break;
            const int64_t output = place / wide * LANES + lane, first = place % wide * GROUP;
            const int count = output >= outputs ? 0 : inputs - first < GROUP ? (int)(inputs - first) : GROUP;
            float w[GROUP] = {0}, least = 0, most = 0;
            if (count)
                memcpy(w, weights + output * inputs + first, count * sizeof *w);
            if (kind == FLOAT) {
                for (int i = 0; i < GROUP; i++)
                    ((float *)packed)[(place * GROUP + i) * LANES + lane] = w[i];
                continue;
            }
            for (int i = 0; i < count; i++) {
                least = i && least < w[i] ? least : w[i];
                most = i && most > w[i] ? most : w[i];
            }
            uint16_t *kept = scales + place * LANES * (kind == NIBBLES ? 2 : 1) + lane;
            *kept = narrow(kind == NIBBLES ? (most - least) / 15 : fmaxf(most, -least) / 127);
            if (kind == NIBBLES)
                kept[LANES] = narrow(least);
            const float scale = widen(*kept), from = kind == NIBBLES ? widen(kept[LANES]) : -128 * scale;
            int right = 1;
            uint8_t q[GROUP] = {0};
            for (int i = 0; i < count; i++) {
                q[i] = scale > 0 ? (uint8_t)fminf(rintf((w[i] - from) / scale), kind == NIBBLES ? 15 : 255) : 0;
                right &= scale * q[i] + from == w[i];
            }
            uint8_t *bytes = (uint8_t *)packed + place * GROUP * LANES / (kind == NIBBLES ? 2 : 1);
            for (int i = 0; i < (kind == NIBBLES ? GROUP / 2 : GROUP); i++)
                bytes[i / 4 * 4 * LANES + lane * 4 + i % 4] = kind == NIBBLES ? q[i] | q[i + GROUP / 2] << 4 : q[i];
            if (!right) {
#pragma omp atomic write
                exact = 0;
            }
        }
    return exact;
}
