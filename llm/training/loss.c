/* Output layer and cross-entropy in one, as llm/training/loss.py has it: losses and gradients, with no logit kept.

ROWS tokens at a time: their logits, a panel of the vocabulary after the other; of these exp(logit - the largest) in
bfloat16, whose sum is known only at the end, so that the gradients of the stream are divided by it as they are
finished, and the stream before it is multiplied into those of the weights. At the target stands exp less that sum.
Names: N tokens, C width of the model, V vocabulary. */

#include "../model/bfloat16.h"

enum { ROWS = 44 * TALL, DEEP = 512, TILE = 4 }; /* DEEP tokens of the vocabulary that a sum is taken over at once */

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
    const Pair *across, *down;
    Half *low, *exps; /* the stream, ROWS x C; ROWS x stride */
    Pair *below;      /* `exps` as pairs of rows: tiles of LANES of V, each ROWS / 2 x LANES */
    Pair *scaled;     /* the stream over the sums, as panels: ROWS / 2 x WIDE */
    float *most, *factor; /* ROWS x LANES, the largest logit of each lane; ROWS, one over a row's sum */
} Work;

static inline void find_logits(const Work *work, int row, int64_t panel) {
    Sums sums;
    clear(sums);
    multiply(TALL, work->width / 2, (const Pair *)(work->low + row * work->width), work->width / 2, 1,
             work->across + panel * (work->width / 2) * WIDE, sums);
    const int64_t left = work->vocabulary - panel * WIDE;
    for (int m = 0; m < TALL; m++) {
        __m512 most = _mm512_loadu_ps(work->most + (row + m) * LANES);
        for (int j = 0; j < PARTS; j++) {
            const int64_t real = left - j * LANES;
            if (real < LANES)
                sums[m][j] =
                    _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), real <= 0 ? 0 : (1u << real) - 1, sums[m][j]);
            store(work->exps + (row + m) * work->stride + panel * WIDE + j * LANES, narrow(sums[m][j]));
            most = _mm512_max_ps(most, sums[m][j]);
        }
        _mm512_storeu_ps(work->most + (row + m) * LANES, most);
    }
}

/* Two rows of logits become exps; `targets` are below zero where they do not count. */
static void exponentiate(const Work *work, int row, const int64_t *targets, float *losses) {
    Half *exps[2] = {work->exps + row * work->stride, work->exps + (row + 1) * work->stride};
    float most[2], at_target[2];
    __m512 sums[2];
    for (int i = 0; i < 2; i++) {
        most[i] = _mm512_reduce_max_ps(_mm512_loadu_ps(work->most + (row + i) * LANES));
        at_target[i] = targets[i] < 0 ? 0 : widen_one(exps[i][targets[i]]);
        sums[i] = _mm512_setzero_ps();
    }
    for (int64_t v = 0; v < work->all; v += LANES) {
        __m256i found[2];
        for (int i = 0; i < 2; i++) {
            const __m512 exact = exponential(_mm512_sub_ps(widen(load(exps[i] + v)), _mm512_set1_ps(most[i])));
            sums[i] = _mm512_add_ps(sums[i], exact);
            found[i] = narrow(exact);
            store(exps[i] + v, found[i]);
        }
        store_pairs(work->below + v * (ROWS / 2) + row / 2 * LANES, found[0], found[1]);
    }
    for (int i = 0; i < 2; i++) {
        const float sum = _mm512_reduce_add_ps(sums[i]);
        const int64_t target = targets[i];
        work->factor[row + i] = target < 0 ? 0 : 1 / sum;
        losses[i] = target < 0 ? 0 : logf(sum) + most[i] - at_target[i];
        if (target < 0)
            continue;
        const Half less = narrow_one(expf(at_target[i] - most[i]) - sum);
        exps[i][target] = less;
        Half *pair = (Half *)(work->below + (target / LANES * (ROWS / 2) + row / 2) * LANES + target % LANES);
        pair[i] = less;
    }
}

/* Adds what tokens of the vocabulary from `first` on make of the gradient of TALL rows, C from `panel` on. */
static inline void pull_stream(const Work *work, int row, int count, int64_t first, int64_t panel, float *dx) {
    const int64_t deep = work->all - first < DEEP ? work->all - first : DEEP;
    Sums sums;
    clear(sums);
    for (int m = 0; m < count && first; m++)
        for (int j = 0; j < PARTS; j++)
            sums[m][j] = _mm512_loadu_ps(dx + m * work->width + panel * WIDE + j * LANES);
    multiply(TALL, deep / 2, (const Pair *)(work->exps + row * work->stride + first), work->stride / 2, 1,
             work->down + (panel * work->all + first) / 2 * WIDE, sums);
    for (int m = 0; m < count; m++) {
        const __m512 factor = _mm512_set1_ps(first + deep < work->all ? 1 : work->factor[row + m]);
        for (int j = 0; j < PARTS; j++)
            _mm512_storeu_ps(dx + m * work->width + panel * WIDE + j * LANES, _mm512_mul_ps(sums[m][j], factor));
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

int omp_get_thread_num(void);
int omp_get_num_threads(void);

/* Of the stream `x`, N x C, C a multiple of WIDE, and targets, N, below zero where they do not count: the losses, N,
and their sum's gradients, `dx` and `dweights`, V x C, if it is not NULL. Returns 0, or 1 without memory. */
int cross_entropy(int64_t n, int64_t width, int64_t vocabulary, const float *x, const Pair *across, const Pair *down,
                  const int64_t *targets, float *losses, float *dx, float *dweights, int threads) {
    Work work = {.width = width, .vocabulary = vocabulary, .across = across, .down = down};
    work.all = padded(vocabulary, WIDE);
    work.stride = work.all + 32; /* so that rows begin in other sets of a cache */
    const size_t sizes[] = {
        ROWS * width * sizeof(Half), ROWS * work.stride * sizeof(Half), ROWS / 2 * work.all * sizeof(Pair),
        ROWS / 2 * width * sizeof(Pair), ROWS * LANES * sizeof(float), ROWS * sizeof(float),
    };
    void *parts[6], *room = make_room(sizes, parts, 6);
    if (!room)
        return 1;
    work.low = parts[0], work.exps = parts[1], work.below = parts[2], work.scaled = parts[3];
    work.most = parts[4], work.factor = parts[5];
#pragma omp parallel num_threads(threads)
    for (int64_t start = 0; start < n; start += ROWS) {
        const int rows = n - start < ROWS ? (int)(n - start) : ROWS, groups = (rows + TALL - 1) / TALL;
        const int thread = omp_get_thread_num(), all_threads = omp_get_num_threads();
        const int from = groups * thread / all_threads * TALL, to = groups * (thread + 1) / all_threads * TALL;
        for (int row = from; row < to; row++) {
            for (int64_t c = 0; c < width; c += LANES)
                store(work.low + row * width + c,
                      row < rows ? narrow(_mm512_loadu_ps(x + (start + row) * width + c)) : _mm256_setzero_si256());
            _mm512_storeu_ps(work.most + row * LANES, _mm512_set1_ps(-INFINITY));
        }
        for (int64_t panel = 0; panel < work.all / WIDE; panel++)
            for (int row = from; row < to; row += TALL)
                find_logits(&work, row, panel);
        for (int row = from; row < to; row += 2) {
            int64_t wanted[2];
            float found[2];
            for (int i = 0; i < 2; i++)
                wanted[i] = row + i < rows ? targets[start + row + i] : -1;
            exponentiate(&work, row, wanted, found);
            __m512 factors[2];
            for (int i = 0; i < 2; i++) {
                factors[i] = _mm512_set1_ps(work.factor[row + i]);
                if (row + i < rows)
                    losses[start + row + i] = found[i];
            }
            for (int64_t c = 0; c < width; c += LANES) {
                const __m512 one = row < rows ? _mm512_loadu_ps(x + (start + row) * width + c) : _mm512_setzero_ps();
                const __m512 other =
                    row + 1 < rows ? _mm512_loadu_ps(x + (start + row + 1) * width + c) : _mm512_setzero_ps();
                store_pairs(work.scaled + c / WIDE * (ROWS / 2) * WIDE + row / 2 * WIDE + c % WIDE,
                            narrow(_mm512_mul_ps(one, factors[0])), narrow(_mm512_mul_ps(other, factors[1])));
            }
        }
        for (int64_t first = 0; first < work.all; first += DEEP)
            for (int64_t panel = 0; panel < width / WIDE; panel++)
                for (int row = from; row < to && row < rows; row += TALL)
                    pull_stream(&work, row, rows - row < TALL ? rows - row : TALL, first, panel,
                                dx + (start + row) * width);
#pragma omp barrier
        if (dweights) {
#pragma omp for schedule(static)
            for (int64_t token = 0; token < vocabulary; token += TILE)
                for (int64_t panel = 0; panel < width / WIDE; panel++)
                    pull_weights(&work, groups * TALL, token, panel, dweights, start > 0);
        }
    }
    free(room);
    return 0;
}
