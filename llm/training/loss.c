/* Output layer and cross-entropy in one, as llm/training/loss.py has it: losses and gradients, with no logit kept.

ROWS tokens at a time: their logits; of these exp(logit - the largest) in bfloat16, whose sum is known only at the end,
so that the gradients of the stream are divided by it as they are finished, and the stream before it is multiplied into
those of the weights. At the target stands exp less that sum.

The vocabulary is cut into slices. What is made of a slice one thread alone makes and reads: between two cores goes
little but sums, which matters where they share no cache. There are SLICES whether or not there are as many threads, so
that these few come to the same sums, and as many as threads where there are more.
Names: N tokens, C width of the model, V vocabulary. */

#include "../model/bfloat16.h"

enum { ROWS = 44 * TALL, SLICES = 4, DEEP = 512 }; /* DEEP tokens that a sum is taken over at once */

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
    int64_t width, vocabulary, all, stride; /* the vocabulary padded to WIDE; from one row of `exps` to the next */
    int slices;
    const Pair *across, *down;
    Half *low, *exps; /* the stream, ROWS x C; ROWS x stride */
    Pair *below;      /* `exps` as pairs of rows: tiles of LANES of V, each ROWS / 2 x LANES */
    Pair *scaled;     /* the stream over the sums, as panels: ROWS / 2 x WIDE */
    float *most, *sums, *pulls; /* of each slice: the largest logit and the sum of exps, ROWS, and its dx, ROWS x C */
    float *factor;              /* ROWS, one over a row's sum */
} Work;

/* Where a slice begins, a multiple of WIDE; the one behind the last begins at the end. */
static inline int64_t slice_begin(const Work *work, int slice) {
    return work->all / WIDE * slice / work->slices * WIDE;
}

static inline void find_logits(const Work *work, int row, int64_t first, __m512 *most) {
    Sums sums;
    clear(sums);
    multiply(TALL, work->width / 2, (const Pair *)(work->low + row * work->width), work->width / 2, 1,
             work->across + first * (work->width / 2), sums);
    for (int m = 0; m < TALL; m++)
        for (int j = 0; j < PARTS; j++) {
            const int64_t real = work->vocabulary - first - j * LANES;
            if (real < LANES)
                sums[m][j] =
                    _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), real <= 0 ? 0 : (1u << real) - 1, sums[m][j]);
            const __m256i logits = narrow(sums[m][j]);
            store(work->exps + (row + m) * work->stride + first + j * LANES, logits);
            most[m] = _mm512_max_ps(most[m], widen(logits)); /* as what is raised is rounded, too */
        }
}

static inline float most_of(const Work *work, int row) {
    float most = work->most[row];
    for (int slice = 1; slice < work->slices; slice++)
        most = fmaxf(most, work->most[slice * ROWS + row]);
    return most;
}

/* A slice of two rows of logits becomes exps. */
static void exponentiate(const Work *work, int row, int slice) {
    __m512 most[2], sums[2];
    for (int i = 0; i < 2; i++) {
        most[i] = _mm512_set1_ps(most_of(work, row + i));
        sums[i] = _mm512_setzero_ps();
    }
    for (int64_t v = slice_begin(work, slice); v < slice_begin(work, slice + 1); v += LANES) {
        __m256i found[2];
        for (int i = 0; i < 2; i++) {
            Half *at = work->exps + (row + i) * work->stride + v;
            const __m512 exact = exponential(_mm512_sub_ps(widen(load(at)), most[i]));
            sums[i] = _mm512_add_ps(sums[i], exact);
            found[i] = narrow(exact);
            store(at, found[i]);
        }
        store_pairs(work->below + v * (ROWS / 2) + row / 2 * LANES, found[0], found[1]);
    }
    for (int i = 0; i < 2; i++)
        work->sums[slice * ROWS + row + i] = _mm512_reduce_add_ps(sums[i]);
}

/* A row's loss, and what takes the place of exp at its target, which is below zero where it does not count. The logit
there is what was rounded, as its exp is. */
static float finish(const Work *work, int row, int64_t target, float logit) {
    if (target < 0) {
        work->factor[row] = 0;
        return 0;
    }
    const float most = most_of(work, row);
    float sum = 0;
    for (int slice = 0; slice < work->slices; slice++)
        sum += work->sums[slice * ROWS + row];
    const Half less = narrow_one(expf(logit - most) - sum);
    Half *pair = (Half *)(work->below + (target / LANES * (ROWS / 2) + row / 2) * LANES + target % LANES);
    pair[row % 2] = work->exps[row * work->stride + target] = less;
    work->factor[row] = 1 / sum;
    return logf(sum) + most - logit;
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

/* Adds what tokens `first` … end - 1 of the vocabulary make of the gradient of TALL rows, C from `panel` on. */
static inline void pull_stream(
    const Work *work, int row, int64_t first, int64_t end, int64_t panel, int begun, float *to) {
    Sums sums;
    clear(sums);
    for (int m = 0; m < TALL && begun; m++)
        for (int j = 0; j < PARTS; j++)
            sums[m][j] = _mm512_loadu_ps(to + (row + m) * work->width + panel * WIDE + j * LANES);
    multiply(TALL, (end - first) / 2, (const Pair *)(work->exps + row * work->stride + first), work->stride / 2, 1,
             work->down + (panel * work->all + first) / 2 * WIDE, sums);
    for (int m = 0; m < TALL; m++)
        for (int j = 0; j < PARTS; j++)
            _mm512_storeu_ps(to + (row + m) * work->width + panel * WIDE + j * LANES, sums[m][j]);
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

/* All threads together: losses and gradients of `count` rows; `begun` says whether others were added to `dweights`. */
static void learn(const Work *work, int count, const float *x, const int64_t *targets, float *losses, float *dx,
                  float *dweights, int begun) {
    const int rows = (int)padded(count, TALL);
    const int64_t width = work->width;
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++)
        for (int64_t c = 0; c < width; c += LANES)
            store(work->low + row * width + c,
                  row < count ? narrow(_mm512_loadu_ps(x + row * width + c)) : _mm256_setzero_si256());
#pragma omp for schedule(static)
    for (int slice = 0; slice < work->slices; slice++) {
        __m512 most[ROWS];
        for (int row = 0; row < rows; row++)
            most[row] = _mm512_set1_ps(-INFINITY);
        for (int64_t first = slice_begin(work, slice); first < slice_begin(work, slice + 1); first += WIDE)
            for (int row = 0; row < rows; row += TALL)
                find_logits(work, row, first, most + row);
        for (int row = 0; row < rows; row++)
            work->most[slice * ROWS + row] = _mm512_reduce_max_ps(most[row]);
    }
#pragma omp for schedule(static)
    for (int row = 0; row < count; row++) /* until all is there, its logit */
        losses[row] = targets[row] < 0 ? 0 : widen_one(work->exps[row * work->stride + targets[row]]);
#pragma omp for schedule(static)
    for (int slice = 0; slice < work->slices; slice++)
        for (int row = 0; row < rows; row += 2)
            exponentiate(work, row, slice);
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row += 2) {
        const int real = count - row < 2 ? count - row : 2;
        for (int i = 0; i < 2; i++)
            if (i < real)
                losses[row + i] = finish(work, row + i, targets[row + i], losses[row + i]);
            else
                work->factor[row + i] = 0;
        scale_stream(work, row, real, x + row * width);
    }
#pragma omp for schedule(static)
    for (int slice = 0; slice < work->slices; slice++) {
        const int64_t begin = slice_begin(work, slice), end = slice_begin(work, slice + 1);
        float *pulls = work->pulls + slice * ROWS * width;
        for (int64_t first = begin; first < end; first += DEEP)
            for (int64_t panel = 0; panel < width / WIDE; panel++)
                for (int row = 0; row < rows; row += TALL)
                    pull_stream(work, row, first, end - first < DEEP ? end : first + DEEP, panel, first > begin, pulls);
        if (begin == end)
            memset(pulls, 0, rows * width * sizeof(float));
        for (int64_t token = begin; dweights && token < end; token += TILE)
            for (int64_t panel = 0; panel < width / WIDE; panel++)
                pull_weights(work, rows, token, panel, dweights, begun);
    }
#pragma omp for schedule(static)
    for (int row = 0; row < count; row++)
        for (int64_t c = 0; c < width; c += LANES) {
            __m512 sum = _mm512_setzero_ps();
            for (int slice = 0; slice < work->slices; slice++)
                sum = _mm512_add_ps(sum, _mm512_loadu_ps(work->pulls + (slice * ROWS + row) * width + c));
            _mm512_storeu_ps(dx + row * width + c, _mm512_mul_ps(sum, _mm512_set1_ps(work->factor[row])));
        }
}

enum { ROOMS = 8 };

/* Of the stream `x`, N x C, C a multiple of WIDE, and targets, N, below zero where they do not count: the losses, N,
and their sum's gradients, `dx` and `dweights`, V x C, if it is not NULL. Returns 0, or 1 without memory. */
int cross_entropy(int64_t n, int64_t width, int64_t vocabulary, const float *x, const Pair *across, const Pair *down,
                  const int64_t *targets, float *losses, float *dx, float *dweights, int threads) {
    const int slices = threads > SLICES ? threads : SLICES;
    Work work = {.width = width, .vocabulary = vocabulary, .slices = slices, .across = across, .down = down};
    work.all = padded(vocabulary, WIDE);
    work.stride = work.all + 32; /* so that rows begin in other sets of a cache */
    const size_t sizes[ROOMS] = {
        ROWS * width * sizeof(Half), ROWS * work.stride * sizeof(Half), ROWS / 2 * work.all * sizeof(Pair),
        ROWS / 2 * width * sizeof(Pair), slices * ROWS * sizeof(float), slices * ROWS * sizeof(float),
        slices * ROWS * width * sizeof(float), ROWS * sizeof(float),
    };
    void *parts[ROOMS], *room = make_room(sizes, parts, ROOMS);
    if (!room)
        return 1;
    work.low = parts[0], work.exps = parts[1], work.below = parts[2], work.scaled = parts[3];
    work.most = parts[4], work.sums = parts[5], work.pulls = parts[6], work.factor = parts[7];
#pragma omp parallel num_threads(threads)
    for (int64_t start = 0; start < n; start += ROWS)
        learn(&work, n - start < ROWS ? (int)(n - start) : ROWS, x + start * width, targets + start, losses + start,
              dx + start * width, dweights, start > 0);
    free(room);
    return 0;
}
