/* Output layer and cross-entropy in one, as cross_entropy.py has it: losses and gradients, with no logit kept.

Of ROWS tokens and DEEP of the vocabulary at a time there are logits, of these exp(logit - shift) in bfloat16, and while
it is in the caches what it adds to the gradient of the stream. The shift is about the logit of the target, so that exp
is neither nothing nor infinite; where the row's largest logit is far from it all is made again with that. A row's sum
of exps is known at the end: its gradient is then divided by it, and those of the weights take the stream over it. At
the target exp less that sum stands for exp, and is rounded as a whole: where the model is sure it is little.

The vocabulary is cut into slices. What is made of a slice one thread alone makes and reads: between two cores goes
little but sums, which matters where they share no cache. There are SLICES whether or not there are as many threads, so
that these few come to the same sums, and as many as threads where there are more.
Names: N tokens, C width of the model, V vocabulary. */

#include "bfloat16.h"

enum { ROWS = 44 * TALL, DEEP = 8 * WIDE, SLICES = 4 };
enum { BESIDE = DEEP + 32 }; /* from a row of exps to the next, so that they begin in other sets of a cache */
enum { FAR = 40 }; /* that a row's largest logit may be from its shift */

/* The output layer's weights, V x C, as panels for both products: `across` has its tokens side by side and pairs of
neighbours in C, `down` the other way round. Each needs V, padded to WIDE, times C. */
void pack_output(int64_t width, int64_t vocabulary, const Half *weights, Pair *across, Pair *down, int threads) {
    const int64_t all = padded(vocabulary, WIDE);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < all; first += 2) {
        const __m256i none = _mm256_setzero_si256();
        for (int64_t token = first; token < first + 2; token++) {
            Pair *to = across + token / WIDE * (width / 2) * WIDE + token % WIDE;
            const Pair *from = (const Pair *)(weights + token * width);
            for (int64_t p = 0; p < width / 2; p++)
                to[p * WIDE] = token < vocabulary ? from[p] : 0;
        }
        for (int64_t c = 0; c < width; c += LANES)
            store_pairs(down + c / WIDE * (all / 2) * WIDE + first / 2 * WIDE + c % WIDE,
                        first < vocabulary ? load(weights + first * width + c) : none,
                        first + 1 < vocabulary ? load(weights + (first + 1) * width + c) : none);
    }
}

typedef struct {
    int64_t width, vocabulary, all; /* the vocabulary padded to WIDE */
    int slices, again;              /* `again`: a row has another shift now */
    const Half *weights;
    const Pair *across, *down;
    Half *low;        /* the stream, ROWS x C */
    float *shift, *at;          /* of each row, and the logit of its target */
    float *factor, *wanted;     /* one over its sum, and how much of the target's weights its gradient is to lose */
    Pair *scaled;     /* the stream over the sums, as panels: ROWS / 2 x WIDE */
    Pair *below;      /* exps as pairs of rows: tiles of LANES of V, each ROWS / 2 x LANES */
    Half *exps;       /* of each slice ROWS x BESIDE */
    float *most, *sums, *pulls; /* of each slice: the largest logits and the sums of exps, ROWS, and dx, ROWS x C */
} Work;

/* Where a slice begins, a multiple of WIDE; the one behind the last begins at the end. */
static inline int64_t slice_begin(const Work *work, int slice) {
    return work->all / WIDE * slice / work->slices * WIDE;
}

/* A row of the stream as the products read it, and its shift, infinite where none of it counts. */
static void prepare(const Work *work, int row, const float *x, int64_t target) {
    Half *low = work->low + row * work->width;
    const int64_t width = work->width;
    for (int64_t c = 0; c < width; c += LANES)
        store(low + c, x ? narrow(_mm512_loadu_ps(x + c)) : _mm256_setzero_si256());
    work->shift[row] = INFINITY;
    if (target >= 0) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t c = 0; c < width; c += LANES)
            sum = _mm512_fmadd_ps(widen(load(low + c)), widen(load(work->weights + target * width + c)), sum);
        work->shift[row] = _mm512_reduce_add_ps(sum);
    }
}

/* Of TALL rows the logits of WIDE tokens from `first` on. Not inlined, so that the registers are for its sums alone. */
static __attribute__((noinline)) void find_logits(const Work *work, int row, int64_t first, Sums logits) {
    Sums sums;
    clear(sums);
    multiply(TALL, work->width / 2, (const Pair *)(work->low + row * work->width), work->width / 2, 1,
             work->across + first * (work->width / 2), sums);
    for (int m = 0; m < TALL; m++)
        for (int j = 0; j < PARTS; j++)
            logits[m][j] = sums[m][j];
}

/* Exps of TALL rows and WIDE tokens; `most` and `sums` are those of each row so far, lane by lane. */
static inline void find_exps(
    const Work *work, int row, int64_t first, const int64_t *targets, Half *exps, __m512 *most, __m512 *sums) {
    Sums logits;
    find_logits(work, row, first, logits);
    for (int m = 0; m < TALL; m++)
        if (targets[row + m] >= first && targets[row + m] < first + WIDE)
            memcpy(work->at + row + m, (const float *)logits[m] + (targets[row + m] - first), sizeof(float));
    for (int m = 0; m < TALL; m += 2)
        for (int j = 0; j < PARTS; j++) {
            const int64_t token = first + j * LANES, real = work->vocabulary - token;
            __m256i found[2];
            for (int i = 0; i < 2; i++) {
                __m512 logit = logits[m + i][j];
                if (real < LANES)
                    logit = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), real <= 0 ? 0 : (1u << real) - 1, logit);
                const __m512 exact = exponential(_mm512_sub_ps(logit, _mm512_set1_ps(work->shift[row + m + i])));
                most[m + i] = _mm512_max_ps(logit, most[m + i]);
                sums[m + i] = _mm512_add_ps(sums[m + i], exact);
                found[i] = narrow(exact);
                store(exps + (row + m + i) * BESIDE + first % DEEP + j * LANES, found[i]);
            }
            store_pairs(work->below + token * (ROWS / 2) + (row + m) / 2 * LANES, found[0], found[1]);
        }
}

/* Adds what DEEP tokens at most, `first` … end - 1, make of the gradient of TALL rows, C from `panel` on. */
static inline void pull_stream(const Work *work, int row, int64_t first, int64_t end, int64_t panel, const Half *exps,
                               int begun, float *to) {
    Sums sums;
    clear(sums);
    for (int m = 0; m < TALL && begun; m++)
        for (int j = 0; j < PARTS; j++)
            sums[m][j] = _mm512_loadu_ps(to + (row + m) * work->width + panel * WIDE + j * LANES);
    multiply(TALL, (end - first) / 2, (const Pair *)(exps + row * BESIDE), BESIDE / 2, 1,
             work->down + (panel * work->all + first) / 2 * WIDE, sums);
    for (int m = 0; m < TALL; m++)
        for (int j = 0; j < PARTS; j++)
            _mm512_storeu_ps(to + (row + m) * work->width + panel * WIDE + j * LANES, sums[m][j]);
}

/* Of all rows and a slice of the vocabulary exps, their sums, and what they make of the stream's gradient. */
static void walk_slice(const Work *work, int slice, int rows, const int64_t *targets) {
    const int64_t begin = slice_begin(work, slice), end = slice_begin(work, slice + 1);
    float *pulls = work->pulls + slice * ROWS * work->width;
    Half *exps = work->exps + slice * ROWS * BESIDE;
    __m512 most[ROWS], sums[ROWS];
    for (int row = 0; row < rows; row++) {
        most[row] = _mm512_set1_ps(-INFINITY);
        sums[row] = _mm512_setzero_ps();
    }
    if (begin == end)
        memset(pulls, 0, rows * work->width * sizeof(float));
    for (int64_t first = begin, next; first < end; first = next) {
        next = (first / DEEP + 1) * DEEP < end ? (first / DEEP + 1) * DEEP : end;
        for (int64_t token = first; token < next; token += WIDE)
            for (int row = 0; row < rows; row += TALL)
                find_exps(work, row, token, targets, exps, most + row, sums + row);
        for (int64_t panel = 0; panel < work->width / WIDE; panel++)
            for (int row = 0; row < rows; row += TALL)
                pull_stream(work, row, first, next, panel, exps + first % DEEP, first > begin, pulls);
    }
    for (int row = 0; row < rows; row++) {
        work->most[slice * ROWS + row] = _mm512_reduce_max_ps(most[row]);
        work->sums[slice * ROWS + row] = _mm512_reduce_add_ps(sums[row]);
    }
}

/* Whether a row's exps are too large or too small to go on with; then its shift is its largest logit. */
static int is_far(const Work *work, int row) {
    float most = work->most[row];
    for (int slice = 1; slice < work->slices; slice++)
        most = fmaxf(most, work->most[slice * ROWS + row]);
    const int far = isfinite(work->shift[row]) && fabsf(most - work->shift[row]) > FAR;
    if (far)
        work->shift[row] = most;
    return far;
}

/* A row's loss and what finishes its gradients, or zeros where its target does not count. */
static float finish(const Work *work, int row, int64_t target) {
    float sum = 0;
    for (int slice = 0; slice < work->slices; slice++)
        sum += work->sums[slice * ROWS + row];
    work->factor[row] = work->wanted[row] = 0;
    if (target < 0)
        return 0;
    const float logit = work->at[row] - work->shift[row], own = expf(logit);
    Half *pair = (Half *)(work->below + (target / LANES * (ROWS / 2) + row / 2) * LANES + target % LANES);
    pair[row % 2] = narrow_one(own - sum);
    work->factor[row] = 1 / sum;
    work->wanted[row] = (sum - own + widen_one(narrow_one(own))) / sum; /* as the rounded one is in the row's pull */
    return logf(sum) - logit;
}

/* Two rows of the stream, of which `real` are there, over their sums of exps, as pairs. */
static void scale_stream(const Work *work, int row, int real, const float *x) {
    for (int64_t c = 0; c < work->width; c += LANES) {
        __m256i scaled[2];
        for (int i = 0; i < 2; i++) {
            const __m512 values = i < real ? _mm512_loadu_ps(x + i * work->width + c) : _mm512_setzero_ps();
            scaled[i] = narrow(_mm512_mul_ps(values, _mm512_set1_ps(work->factor[row + i])));
        }
        store_pairs(work->scaled + c / WIDE * (ROWS / 2) * WIDE + row / 2 * WIDE + c % WIDE, scaled[0], scaled[1]);
    }
}

/* Adds what all rows make of the gradient of TILE tokens' weights, C from `panel` on. */
static inline void pull_weights(const Work *work, int rows, int64_t token, int64_t panel, float *dweights, int begun) {
    const int64_t left = work->vocabulary - token;
    float *to = dweights + token * work->width + panel * WIDE;
    Sums sums;
    clear(sums);
    for (int m = 0; m < TILE && m < left && begun; m++)
        for (int j = 0; j < PARTS; j++)
            sums[m][j] = _mm512_loadu_ps(to + m * work->width + j * LANES);
    multiply(TILE, rows / 2, work->below + token / LANES * (ROWS / 2) * LANES + token % LANES, 1, LANES,
             work->scaled + panel * (ROWS / 2) * WIDE, sums);
    for (int m = 0; m < TILE && m < left; m++)
        for (int j = 0; j < PARTS; j++)
            _mm512_storeu_ps(to + m * work->width + j * LANES, sums[m][j]);
}

/* A row's gradient: what all slices make of it over its sum, less so much of its target's weights. */
static void finish_gradient(const Work *work, int row, int64_t target, float *dx) {
    const int64_t width = work->width;
    for (int64_t c = 0; c < width; c += LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (int slice = 0; slice < work->slices; slice++)
            sum = _mm512_add_ps(sum, _mm512_loadu_ps(work->pulls + (slice * ROWS + row) * width + c));
        sum = _mm512_mul_ps(sum, _mm512_set1_ps(work->factor[row]));
        if (target >= 0)
            sum = _mm512_fnmadd_ps(widen(load(work->weights + target * width + c)), _mm512_set1_ps(work->wanted[row]),
                                   sum);
        _mm512_storeu_ps(dx + c, sum);
    }
}

/* All threads together: losses and gradients of `count` rows; `begun` says whether others were added to `dweights`. */
static void learn(Work *work, int count, const float *x, const int64_t *counted, float *losses, float *dx,
                  float *dweights, int begun) {
    const int rows = (int)padded(count, TALL);
    const int64_t width = work->width;
    int64_t targets[ROWS]; /* of padding, too */
    for (int row = 0; row < rows; row++)
        targets[row] = row < count ? counted[row] : -1;
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++)
        prepare(work, row, row < count ? x + row * width : NULL, targets[row]);
    for (int again = 1; again;) {
#pragma omp for schedule(static)
        for (int slice = 0; slice < work->slices; slice++)
            walk_slice(work, slice, rows, targets);
#pragma omp single
        work->again = 0;
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++)
            if (is_far(work, row))
#pragma omp atomic write
                work->again = 1;
        again = work->again;
#pragma omp barrier
    }
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row += 2) {
        const int real = count - row < 2 ? count - row : 2;
        for (int i = 0; i < 2; i++) {
            const float loss = finish(work, row + i, targets[row + i]);
            if (i < real)
                losses[row + i] = loss;
        }
        scale_stream(work, row, real, x + row * width);
    }
#pragma omp for schedule(static) nowait
    for (int slice = 0; slice < work->slices; slice++)
        for (int64_t token = slice_begin(work, slice); dweights && token < slice_begin(work, slice + 1); token += TILE)
            for (int64_t panel = 0; panel < width / WIDE; panel++)
                pull_weights(work, rows, token, panel, dweights, begun);
#pragma omp for schedule(static)
    for (int row = 0; row < count; row++)
        finish_gradient(work, row, targets[row], dx + row * width);
}

enum { ROOMS = 11 };

/* Of the stream `x`, N x C, C a multiple of WIDE, and targets, N, below zero where they do not count: the losses, N,
and their sum's gradients, `dx` and `dweights`, V x C, if it is not NULL. Returns 0, or 1 without memory. */
int cross_entropy(int64_t n, int64_t width, int64_t vocabulary, const float *x, const Half *weights, const Pair *across,
                  const Pair *down, const int64_t *targets, float *losses, float *dx, float *dweights, int threads) {
    const int slices = threads > SLICES ? threads : SLICES;
    Work work = {.width = width, .vocabulary = vocabulary, .all = padded(vocabulary, WIDE), .slices = slices,
                 .weights = weights, .across = across, .down = down};
    const size_t row = ROWS * sizeof(float), each = slices * ROWS;
    const size_t sizes[ROOMS] = {
        ROWS * width * sizeof(Half), row, row, row, row, ROWS / 2 * width * sizeof(Pair),
        ROWS / 2 * work.all * sizeof(Pair), each * BESIDE * sizeof(Half), slices * row, slices * row,
        slices * row * width,
    };
    void *parts[ROOMS], *room = make_room(sizes, parts, ROOMS);
    if (!room)
        return 1;
    work.low = parts[0], work.shift = parts[1], work.at = parts[2], work.factor = parts[3], work.wanted = parts[4];
    work.scaled = parts[5], work.below = parts[6], work.exps = parts[7], work.most = parts[8], work.sums = parts[9];
    work.pulls = parts[10];
#pragma omp parallel num_threads(threads)
    for (int64_t start = 0; start < n; start += ROWS)
        learn(&work, n - start < ROWS ? (int)(n - start) : ROWS, x + start * width, targets + start, losses + start,
              dx + start * width, dweights, start > 0);
    free(room);
    return 0;
}
