/* A step of the GPT for many tokens in one call: from token ids and their positions to the normalised stream. A part of
a GPT begins with the stream of the blocks below it, or ends with that of its own.

The same computation as llm/model, which is its oracle, for every shape but what decode.py calls unsupported. It is for
CPUs that generate texts: there a step is many small products, and torch spends more time between them than on them.

All threads walk through one function; a product is shared out by outputs, the rest by tokens, heads and groups.
Names: N tokens of a step, C width of the model, D width of a head, `stream` N x C. */

#include "products.h"

#include "attention.h"

typedef enum { GELU, SWIGLU } Activation;

typedef struct {
    const float *weight, *bias; /* bias may be NULL */
} Norm;

typedef struct {
    Norm attention_norm, mlp_norm;
    Matrix query_key_value, attention_projection, expand, mlp_projection; /* SWIGLU's `expand`: gate, expand */
} Block;

typedef struct {
    int32_t n_layer, n_embd, n_head, kv_heads, hidden, rms, qk_norm, activation;
    float epsilon;
    const float *positions;     /* context x C, or NULL */
    const float *cosine, *sine; /* context x D, or NULL */
    Matrix embedding, output;   /* the same where tied */
    Norm norm; /* its weight is NULL where blocks above go on with the stream */
    const Block *blocks;
} Model;

static inline float silu(float x) { return x / (1.0f + exponential(-x)); }

static inline float gelu(float x) {
    float u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x - x / (1.0f + exponential(2.0f * u)); /* 0.5 x (1 + tanh u) */
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
        const float scale = 1.0f / sqrtf(squares / width + model->epsilon);
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

static void embed(const Model *model, int64_t token, int64_t position, float *out) {
    unpack(&model->embedding, token, out);
    for (int i = 0; model->positions && i < model->n_embd; i++)
        out[i] += model->positions[position * model->n_embd + i];
}

/* Room of a step: every pointer of it lies in one block of memory, whose size `lay_out` gives. */
typedef struct {
    float *stream, *wide, *attended, *rows, *scores;
    Inputs x;
} Room;

static size_t lay_out(const Model *model, int n, int64_t positions, int threads, char *memory, Room *room) {
    const int qkv = model->n_embd / model->n_head * (model->n_head + 2 * model->kv_heads);
    const int expanded = model->hidden * (model->activation == SWIGLU ? 2 : 1);
    const int most = groups(model->hidden > model->n_embd ? model->hidden : model->n_embd);
    size_t used = 0;
#define PLACE(pointer, count)                                                        \
    pointer = (void *)(memory + used);                                               \
    used += ((count) * sizeof *(pointer) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    PLACE(room->stream, (size_t)n * model->n_embd)
    PLACE(room->wide, (size_t)n * (qkv > expanded ? qkv : expanded))
    PLACE(room->attended, (size_t)n * model->n_embd)
    PLACE(room->rows, (size_t)threads * model->n_embd)
    PLACE(room->scores, (size_t)threads * TOGETHER * scores_room(positions))
    PLACE(room->x.floats, (size_t)n * most * GROUP)
    PLACE(room->x.bytes, (size_t)n * most * GROUP)
    PLACE(room->x.scales, (size_t)n * most)
    PLACE(room->x.offsets, (size_t)n * most)
    return used;
}

/* `n` tokens, all at once; `thread` is the number of the one that is here. Without `tokens` `out` holds the stream. */
static void walk(const Model *model, int n, const int64_t *tokens, const int64_t *rows, const int64_t *positions,
                 const Cache *cache, float *out, const Room *room, int thread) {
    const int width = model->n_embd, heads = model->n_head, shared = model->kv_heads;
    const int head = width / heads, qkv = head * (heads + 2 * shared), hidden = model->hidden;
    const int expanded = hidden * (model->activation == SWIGLU ? 2 : 1);
    const Inputs *x = &room->x;
    float *row = room->rows + (size_t)thread * width;
    float *scores = room->scores + thread * TOGETHER * scores_room(cache->positions);
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++)
        if (tokens)
            embed(model, tokens[i], positions[i], room->stream + (int64_t)i * width);
        else
            memcpy(room->stream + (int64_t)i * width, out + (int64_t)i * width, width * sizeof(float));
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
                if (k >= heads)
                    keep(cache->half, k < heads + shared ? cache->keys : cache->values,
                         layer * cache->layer + rows[i] * cache->row + (k - heads) % shared * cache->head
                             + positions[i] * head,
                         part, head);
            }
#pragma omp for schedule(static, 1) collapse(2) /* in turns: the later a token, the more keys it has */
        for (int i = 0; i < n; i++)
            for (int k = 0; k < shared; k++) {
                const int64_t at = layer * cache->layer + rows[i] * cache->row + k * cache->head;
                const int first = k * (heads / shared) * head;
                attend_heads(cache, at, room->wide + (int64_t)i * qkv + first, positions[i], head, heads / shared,
                             scores, room->attended + (int64_t)i * width + first);
            }
#pragma omp for schedule(static) collapse(2)
        for (int i = 0; i < n; i++)
            for (int group = 0; group < groups(width); group++) {
                const int from = group * GROUP, count = width - from < GROUP ? width - from : GROUP;
                give(x, block->attention_projection.kind, (int64_t)i * groups(width) + group,
                     room->attended + (int64_t)i * width + from, count);
            }
        multiply(&block->attention_projection, x, n, 1, room->stream, width);
        normalise_inputs(model, &block->mlp_norm, block->expand.kind, room->stream, row, x, n);
        multiply(&block->expand, x, n, 0, room->wide, expanded);
#pragma omp for schedule(static) collapse(2)
        for (int i = 0; i < n; i++)
            for (int group = 0; group < groups(hidden); group++) {
                const int from = group * GROUP, count = hidden - from < GROUP ? hidden - from : GROUP;
                const float *y = room->wide + (int64_t)i * expanded + from;
                float active[GROUP];
                if (model->activation == SWIGLU)
                    for (int j = 0; j < count; j++)
                        active[j] = silu(y[j]) * y[hidden + j];
                else
                    for (int j = 0; j < count; j++)
                        active[j] = gelu(y[j]);
                give(x, block->mlp_projection.kind, (int64_t)i * groups(hidden) + group, active, count);
            }
        multiply(&block->mlp_projection, x, n, 1, room->stream, width);
    }
#pragma omp for schedule(static)
    for (int i = 0; i < n; i++)
        if (model->norm.weight)
            normalise(model, &model->norm, room->stream + (int64_t)i * width, out + (int64_t)i * width);
        else
            memcpy(out + (int64_t)i * width, room->stream + (int64_t)i * width, width * sizeof(float));
}

/* The normalised stream of N tokens, to `out`, N x C; a row's tokens in the order of their positions. Without `tokens`
`out` holds the stream of blocks below, and these go on with it. Keys and values go into the cache, which may not be
longer than the model's context. Returns 0; 1 without memory, 2 for a token that the model does not have, 3 for a
position that the cache does not have. */
int hidden_states(const Model *model, int64_t n, const int64_t *tokens, const int64_t *rows, const int64_t *positions,
             const Cache *cache, float *out, int threads) {
    for (int64_t i = 0; i < n; i++) {
        if (tokens && (tokens[i] < 0 || tokens[i] >= model->embedding.outputs))
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
        walk(model, n - i < STEP ? (int)(n - i) : STEP, tokens ? tokens + i : NULL, rows + i, positions + i, cache,
             out + i * model->n_embd, &room, omp_get_thread_num());
    free(memory);
    return 0;
}

/* Logits of N rows of hidden states, to `out`, N x vocabulary. Returns 0, or 1 without memory. */
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

