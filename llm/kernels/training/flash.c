/* Causal attention in training: the output of each head, and the gradients of queries, keys and values.

A block of QUERIES of one text at a time, and of these TALL against all keys that they see, so that scores live in
registers and in the caches alone. Kept for the way back is the logarithm of the sum of each query's exp(score), from
which the weights are made again there (FlashAttention, Dao et al. 2022).

Several texts may stand in a row, each causal by itself, and all may go on from a head at the row's beginning, which
stands there once. Their keys and values are found where they stand as they are packed. All that is done for one row's
head of keys is done by one thread, in one order, so that no sum depends on how many threads there are.
Names: B rows, H heads of queries, K of keys and values, T tokens of a row, D width of a head, a multiple of WIDE. */

#include "bfloat16.h"

enum { QUERIES = 16 * TALL };

typedef struct {
    int64_t rows, heads, kv_heads, tokens, width;
} Shape;

/* A text's own tokens are `start` … start + length - 1 of a row; before them it has the row's first `head` ones. */
typedef struct {
    int64_t row, head, start, length;
} Text;

/* Vectors of heads, and how far it is from one row, head and token to the next. */
typedef struct {
    const Half *first;
    int64_t row, head, token;
} Heads;

/* The vectors that one head has of one text. */
typedef struct {
    const Half *first;
    int64_t token;
    Text text;
    float scale;
} Vectors;

static inline Vectors of_text(const Heads *heads, const Text *text, int64_t head, float scale) {
    return (Vectors){heads->first + text->row * heads->row + head * heads->head, heads->token, *text, scale};
}

/* Where a text's token stands in its row. */
static inline int64_t place(const Text *text, int64_t token) {
    return token < text->head ? token : text->start + token - text->head;
}

static inline __m256i lanes(const Vectors *vectors, int64_t token, int64_t from, int real) {
    if (!real)
        return _mm256_setzero_si256();
    const __m256i found = load(vectors->first + place(&vectors->text, token) * vectors->token + from);
    return vectors->scale == 1 ? found : narrow(_mm512_mul_ps(widen(found), _mm512_set1_ps(vectors->scale)));
}

/* Tokens `first` … first + count - 1 as they are, `all` x D; those past `count` are zero, here and below. */
static void copy(const Vectors *vectors, int64_t first, int64_t count, int64_t all, int64_t width, Half *to) {
    for (int64_t i = 0; i < all; i++)
        for (int64_t d = 0; d < width; d += LANES)
            store(to + i * width + d, lanes(vectors, first + i, d, i < count));
}

/* All `count` tokens side by side, pairs of neighbours in D: panels of WIDE tokens, D / 2 x WIDE. */
static void pack_across(const Vectors *vectors, int64_t count, int64_t width, Pair *to) {
    for (int64_t i = 0; i < padded(count, WIDE); i++)
        for (int64_t d = 0; d < width; d += LANES) {
            Pair pairs[LANES / 2];
            store((Half *)pairs, lanes(vectors, i, d, i < count));
            for (int64_t p = 0; p < LANES / 2; p++)
                to[(i / WIDE * (width / 2) + d / 2 + p) * WIDE + i % WIDE] = pairs[p];
        }
}

/* Tokens one below the other, in pairs: panels of WIDE of D, each `room` / 2 x WIDE, of which all / 2 are written. */
static void pack_down(
    const Vectors *vectors, int64_t first, int64_t count, int64_t all, int64_t width, int64_t room, Pair *to) {
    for (int64_t i = 0; i < all; i += 2)
        for (int64_t d = 0; d < width; d += LANES)
            store_pairs(to + d / WIDE * (room / 2) * WIDE + i / 2 * WIDE + d % WIDE,
                        lanes(vectors, first + i, d, i < count), lanes(vectors, first + i + 1, d, i + 1 < count));
}

/* Scores of TALL queries, the first of them at `position`, with a panel of keys; what comes after a query is hidden. */
static inline void find_scores(const Half *queries, const Pair *keys, int64_t panel, int64_t position, int64_t width,
                               Sums scores) {
    clear(scores);
    multiply(TALL, width / 2, (const Pair *)queries, width / 2, 1, keys + panel * (width / 2) * WIDE, scores);
    if (panel * WIDE + WIDE - 1 <= position)
        return;
    for (int m = 0; m < TALL; m++)
        for (int j = 0; j < PARTS; j++) {
            const int64_t seen = position + m + 1 - panel * WIDE - j * LANES;
            if (seen < LANES)
                scores[m][j] =
                    _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen <= 0 ? 0 : (1u << seen) - 1, scores[m][j]);
        }
}

/* How many panels of keys TALL queries see, of a text of `all` tokens. */
static inline int64_t panels_seen(int64_t position, int64_t all) {
    return ((position + TALL < all ? position + TALL : all) + WIDE - 1) / WIDE;
}

/* What every thread works in while it goes forward. */
typedef struct {
    Pair *keys, *values; /* packed across, and down */
    Half *queries, *exps; /* QUERIES x D; TALL x stride */
    float *scores;       /* TALL x keys_at_most */
    int64_t keys_at_most, stride;
} Room;

static void attend_block(const Shape *shape, const Text *text, int64_t head, int64_t first, int64_t count,
                         const Room *room, Half *y, float *logs) {
    const int64_t width = shape->width, all = text->head + text->length;
    for (int64_t i = 0; i < count; i += TALL) {
        const int64_t position = text->head + first + i, panels = panels_seen(position, all);
        __m512 most[TALL];
        Sums sums;
        float factor[TALL];
        for (int m = 0; m < TALL; m++)
            most[m] = _mm512_set1_ps(-INFINITY);
        for (int64_t panel = 0; panel < panels; panel++) {
            find_scores(room->queries + i * width, room->keys, panel, position, width, sums);
            for (int m = 0; m < TALL; m++)
                for (int j = 0; j < PARTS; j++) {
                    _mm512_storeu_ps(room->scores + m * room->keys_at_most + panel * WIDE + j * LANES, sums[m][j]);
                    most[m] = _mm512_max_ps(most[m], sums[m][j]);
                }
        }
        for (int m = 0; m < TALL; m++) {
            const float largest = _mm512_reduce_max_ps(most[m]);
            __m512 sum = _mm512_setzero_ps();
            for (int64_t s = 0; s < panels * WIDE; s += LANES) {
                const __m512 score = _mm512_loadu_ps(room->scores + m * room->keys_at_most + s);
                const __m512 exact = exponential(_mm512_sub_ps(score, _mm512_set1_ps(largest)));
                sum = _mm512_add_ps(sum, exact);
                store(room->exps + m * room->stride + s, narrow(exact));
            }
            const float total = _mm512_reduce_add_ps(sum);
            factor[m] = 1 / total;
            if (i + m < count)
                logs[(text->row * shape->heads + head) * shape->tokens + place(text, position + m)] =
                    largest + logf(total);
        }
        for (int64_t d = 0; d < width; d += WIDE) {
            clear(sums);
            multiply(TALL, panels * WIDE / 2, (const Pair *)room->exps, room->stride / 2, 1,
                     room->values + d * (room->keys_at_most / 2), sums);
            for (int m = 0; m < TALL && i + m < count; m++)
                for (int j = 0; j < PARTS; j++)
                    store(y + ((text->row * shape->tokens + place(text, position + m)) * shape->heads + head) * width
                              + d + j * LANES,
                          narrow(_mm512_mul_ps(sums[m][j], _mm512_set1_ps(factor[m]))));
        }
    }
}

/* `y`, B x T x H x D, of which places without a text are left alone, and the logarithms, B x H x T. Returns 0, or 1
without memory. */
int attend(const Shape *shape, const Heads *q, const Heads *k, const Heads *v, const Text *texts, int64_t count,
           Half *y, float *logs, int threads) {
    const int64_t width = shape->width, most = padded(shape->tokens, WIDE), shared = shape->heads / shape->kv_heads;
    const int64_t stride = most + 32; /* so that rows begin in other sets of a cache */
    const float scale = 1.0f / sqrtf((float)width);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const size_t sizes[] = {
            most * width * sizeof(Half), most * width * sizeof(Half), QUERIES * width * sizeof(Half),
            TALL * stride * sizeof(Half), TALL * most * sizeof(float),
        };
        void *parts[5], *memory = make_room(sizes, parts, 5);
        const Room room = {parts[0], parts[1], parts[2], parts[3], parts[4], most, stride};
        failed = !memory;
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < shape->rows * shape->kv_heads; item++)
            for (const Text *text = texts; text < texts + count && memory; text++) {
                if (text->row != item / shape->kv_heads)
                    continue;
                const int64_t kv_head = item % shape->kv_heads, all = text->head + text->length;
                const Vectors keys = of_text(k, text, kv_head, 1), values = of_text(v, text, kv_head, 1);
                pack_across(&keys, all, width, room.keys);
                pack_down(&values, 0, all, padded(all, WIDE), width, most, room.values);
                for (int64_t head = kv_head * shared; head < (kv_head + 1) * shared; head++)
                    for (int64_t first = 0; first < text->length; first += QUERIES) {
                        const int64_t some = text->length - first < QUERIES ? text->length - first : QUERIES;
                        const Vectors queries = of_text(q, text, head, scale);
                        copy(&queries, text->head + first, some, padded(some, TALL), width, room.queries);
                        attend_block(shape, text, head, first, some, &room, y, logs);
                    }
            }
        free(memory);
    }
    return failed;
}

/* What every thread works in on the way back. */
typedef struct {
    Pair *keys, *values, *keys_down;          /* packed across, and keys down, too */
    Half *queries, *upstream;                 /* QUERIES x D */
    Pair *queries_down, *upstream_down;       /* QUERIES / 2 x D */
    Half *dscores;                            /* TALL x stride */
    Pair *weights_below, *dscores_below;      /* as pairs of queries: tiles of LANES keys, each QUERIES / 2 x LANES */
    float *dkeys, *dvalues, *row_dkeys, *row_dvalues; /* of a text, and of its row */
    int64_t keys_at_most, stride;
} RoomBack;

enum { PARTS_BACK = 14 };

/* Gradients of a block of queries, and for each the weights and the gradients of its scores. */
static void pull_queries(const Shape *shape, const Text *text, int64_t head, int64_t first, int64_t count,
                         const RoomBack *room, const Half *y, const float *logs, float scale, Half *dq) {
    const int64_t width = shape->width, all = text->head + text->length;
    for (int64_t i = 0; i < count; i += TALL) {
        const int64_t position = text->head + first + i, panels = panels_seen(position, all);
        const Half *upstream = room->upstream + i * width;
        __m512 log[TALL], dot[TALL]; /* of the upstream gradient with the output: what softmax takes from each */
        Sums sums;
        for (int m = 0; m < TALL; m++) {
            log[m] = _mm512_set1_ps(INFINITY); /* so that all weights are zero */
            dot[m] = _mm512_setzero_ps();
            if (i + m >= count)
                continue;
            const int64_t token = place(text, position + m);
            log[m] = _mm512_set1_ps(logs[(text->row * shape->heads + head) * shape->tokens + token]);
            const Half *output = y + ((text->row * shape->tokens + token) * shape->heads + head) * width;
            for (int64_t d = 0; d < width; d += LANES)
                dot[m] = _mm512_fmadd_ps(widen(load(upstream + m * width + d)), widen(load(output + d)), dot[m]);
            dot[m] = _mm512_set1_ps(_mm512_reduce_add_ps(dot[m]));
        }
        for (int64_t panel = 0; panel < panels; panel++) {
            __m256i kept[TALL][PARTS];
            find_scores(room->queries + i * width, room->keys, panel, position, width, sums);
            for (int m = 0; m < TALL; m++)
                for (int j = 0; j < PARTS; j++)
                    kept[m][j] = narrow(exponential(_mm512_sub_ps(sums[m][j], log[m])));
            for (int m = 0; m < TALL; m += 2)
                for (int j = 0; j < PARTS; j++)
                    store_pairs(room->weights_below + ((panel * PARTS + j) * (QUERIES / 2) + (i + m) / 2) * LANES,
                                kept[m][j], kept[m + 1][j]);
            clear(sums);
            multiply(TALL, width / 2, (const Pair *)upstream, width / 2, 1, room->values + panel * (width / 2) * WIDE,
                     sums);
            for (int m = 0; m < TALL; m++)
                for (int j = 0; j < PARTS; j++) {
                    kept[m][j] = narrow(_mm512_mul_ps(widen(kept[m][j]), _mm512_sub_ps(sums[m][j], dot[m])));
                    store(room->dscores + m * room->stride + panel * WIDE + j * LANES, kept[m][j]);
                }
            for (int m = 0; m < TALL; m += 2)
                for (int j = 0; j < PARTS; j++)
                    store_pairs(room->dscores_below + ((panel * PARTS + j) * (QUERIES / 2) + (i + m) / 2) * LANES,
                                kept[m][j], kept[m + 1][j]);
        }
        for (int64_t d = 0; d < width; d += WIDE) {
            clear(sums);
            multiply(TALL, panels * WIDE / 2, (const Pair *)room->dscores, room->stride / 2, 1,
                     room->keys_down + d * (room->keys_at_most / 2), sums);
            for (int m = 0; m < TALL && i + m < count; m++)
                for (int j = 0; j < PARTS; j++)
                    store(dq + ((text->row * shape->tokens + place(text, position + m)) * shape->heads + head) * width
                              + d + j * LANES,
                          narrow(_mm512_mul_ps(sums[m][j], _mm512_set1_ps(scale))));
        }
    }
}

/* Adds, for TILE keys from `key` on, the sums over those queries of a block, the first at `position`, that see them. */
static inline void pull_keys(int64_t key, int64_t position, int64_t count, int64_t width,
                             const Pair *below, const Pair *down, float *sums_at) {
    const int64_t skipped = key > position ? (key - position) / TALL * (TALL / 2) : 0; /* pairs that see none of them */
    for (int64_t d = 0; d < width; d += WIDE) {
        float *to = sums_at + key * width + d;
        Sums sums;
        clear(sums);
        for (int m = 0; m < TILE; m++)
            for (int j = 0; j < PARTS; j++)
                sums[m][j] = _mm512_loadu_ps(to + m * width + j * LANES);
        multiply(TILE, padded(count, TALL) / 2 - skipped,
                 below + (key / LANES * (QUERIES / 2) + skipped) * LANES + key % LANES, 1, LANES,
                 down + d * (QUERIES / 2) + skipped * WIDE, sums);
        for (int m = 0; m < TILE; m++)
            for (int j = 0; j < PARTS; j++)
                _mm512_storeu_ps(to + m * width + j * LANES, sums[m][j]);
    }
}

/* `dq`, B x T x H x D, of which places without a text are left alone, and all of `dk` and `dv`, B x T x K x D, from
what `attend` found and the upstream gradient. Returns 0, or 1 without memory. */
int attend_back(const Shape *shape, const Heads *q, const Heads *k, const Heads *v, const Heads *upstream,
                const Text *texts, int64_t count, const Half *y, const float *logs, Half *dq, Half *dk, Half *dv,
                int threads) {
    const int64_t width = shape->width, most = padded(shape->tokens, WIDE), shared = shape->heads / shape->kv_heads;
    const int64_t stride = most + 32;
    const float scale = 1.0f / sqrtf((float)width);
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const size_t area = most * width, block = QUERIES * width;
        const size_t sizes[PARTS_BACK] = {
            area * sizeof(Half), area * sizeof(Half), area * sizeof(Half), block * sizeof(Half), block * sizeof(Half),
            block * sizeof(Half), block * sizeof(Half), TALL * stride * sizeof(Half), QUERIES * most * sizeof(Half),
            QUERIES * most * sizeof(Half), area * sizeof(float), area * sizeof(float), area * sizeof(float),
            area * sizeof(float),
        };
        void *parts[PARTS_BACK], *memory = make_room(sizes, parts, PARTS_BACK);
        const RoomBack room = {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7], parts[8],
                               parts[9], parts[10], parts[11], parts[12], parts[13], most, stride};
        failed = !memory;
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < shape->rows * shape->kv_heads; item++) {
            const int64_t row = item / shape->kv_heads, kv_head = item % shape->kv_heads;
            if (!memory)
                continue;
            memset(room.row_dkeys, 0, sizes[12]);
            memset(room.row_dvalues, 0, sizes[13]);
            for (const Text *text = texts; text < texts + count; text++) {
                if (text->row != row)
                    continue;
                const int64_t all = text->head + text->length, wide = padded(all, WIDE);
                const Vectors keys = of_text(k, text, kv_head, 1), values = of_text(v, text, kv_head, 1);
                pack_across(&keys, all, width, room.keys);
                pack_across(&values, all, width, room.values);
                pack_down(&keys, 0, all, wide, width, most, room.keys_down);
                memset(room.dkeys, 0, wide * width * sizeof(float));
                memset(room.dvalues, 0, wide * width * sizeof(float));
                for (int64_t head = kv_head * shared; head < (kv_head + 1) * shared; head++)
                    for (int64_t first = 0; first < text->length; first += QUERIES) {
                        const int64_t some = text->length - first < QUERIES ? text->length - first : QUERIES;
                        const int64_t position = text->head + first, tall = padded(some, TALL);
                        const Vectors queries = of_text(q, text, head, scale), pulls = of_text(upstream, text, head, 1);
                        copy(&queries, position, some, tall, width, room.queries);
                        copy(&pulls, position, some, tall, width, room.upstream);
                        pack_down(&queries, position, some, tall, width, QUERIES, room.queries_down);
                        pack_down(&pulls, position, some, tall, width, QUERIES, room.upstream_down);
                        pull_queries(shape, text, head, first, some, &room, y, logs, scale, dq);
                        for (int64_t key = 0; key < position + some; key += TILE) {
                            pull_keys(key, position, some, width, room.weights_below, room.upstream_down,
                                      room.dvalues);
                            pull_keys(key, position, some, width, room.dscores_below, room.queries_down,
                                      room.dkeys);
                        }
                    }
                for (int64_t i = 0; i < all; i++)
                    for (int64_t d = 0; d < width; d++) {
                        room.row_dkeys[place(text, i) * width + d] += room.dkeys[i * width + d];
                        room.row_dvalues[place(text, i) * width + d] += room.dvalues[i * width + d];
                    }
            }
            for (int64_t token = 0; token < shape->tokens; token++)
                for (int64_t d = 0; d < width; d += LANES) {
                    const int64_t to = ((row * shape->tokens + token) * shape->kv_heads + kv_head) * width + d;
                    store(dk + to, narrow(_mm512_loadu_ps(room.row_dkeys + token * width + d)));
                    store(dv + to, narrow(_mm512_loadu_ps(room.row_dvalues + token * width + d)));
                }
        }
        free(memory);
    }
    return failed;
}
