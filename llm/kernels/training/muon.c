/* Muon's update, as llm/training/optim.py has it: each matrix by one thread, in whose caches it stays.

A matrix of R x C is worked on as `x`, n x m of bfloat16 with n <= m: turned where it is taller than wide. Its rows, and
those of the n x n beside it, are padded to TALL by zeros, which stay zeros. */

#include "bfloat16.h"

enum { STEPS = 5, GAP = 32 }; /* GAP between rows, so that they begin in other sets of a cache */

typedef struct {
    int64_t rows, columns; /* R and C, multiples of WIDE */
    const float *gradient;
    float *momentum, *squares, *weight; /* R x C, R, R x C */
} Matrix;

typedef struct {
    float learning_rate, weight_decay, momentum, beta2;
    float larger;        /* what the bound of singular values is raised by */
    float abc[STEPS][3]; /* coefficients of each step */
} Rates;

/* Pairs of neighbours in a row, the rows side by side: the right side of a product with the turned matrix. */
static void pack_turned(int64_t n, int64_t m, const Half *x, Pair *panels) {
    const int64_t stride = (m + GAP) / 2;
    const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i rows = _mm512_mullo_epi32(count, _mm512_set1_epi32((int)stride));
    for (int64_t row = 0; row < n; row += LANES)
        for (int64_t pair = 0; pair < m / 2; pair++)
            _mm512_storeu_si512(panels + (row / WIDE * (m / 2) + pair) * WIDE + row % WIDE,
                                _mm512_i32gather_epi32(rows, (const Pair *)x + row * stride + pair, 4));
}

/* Pairs of rows: the right side of a product with the matrix as it is. */
static void pack(int64_t n, int64_t m, const Half *x, Pair *panels) {
    for (int64_t row = 0; row < n; row += 2)
        for (int64_t c = 0; c < m; c += LANES)
            store_pairs(panels + (c / WIDE * (n / 2) + row / 2) * WIDE + c % WIDE, load(x + row * (m + GAP) + c),
                        load(x + (row + 1) * (m + GAP) + c));
}

/* out = a other + b left right, n x m, where `left` is n x k; without `other` b left right. */
static void combine(int64_t n, int64_t k, int64_t m, float a, const Half *other, float b, const Half *left,
                    const Pair *right, Half *out) {
    for (int64_t column = 0; column < m; column += WIDE)
        for (int64_t row = 0; row < n; row += TALL) {
            Sums sums;
            clear(sums);
            multiply(TALL, k / 2, (const Pair *)(left + row * (k + GAP)), (k + GAP) / 2, 1, right + column * (k / 2),
                     sums);
            for (int i = 0; i < TALL; i++)
                for (int j = 0; j < PARTS; j++) {
                    const int64_t at = (row + i) * (m + GAP) + column + j * LANES;
                    __m512 sum = _mm512_mul_ps(sums[i][j], _mm512_set1_ps(b));
                    if (other)
                        sum = _mm512_fmadd_ps(widen(load(other + at)), _mm512_set1_ps(a), sum);
                    store(out + at, narrow(sum));
                }
        }
}

/* a + share (b - a) */
static inline __m512 between(__m512 a, __m512 b, float share) {
    return _mm512_fmadd_ps(_mm512_set1_ps(share), _mm512_sub_ps(b, a), a);
}

/* Takes in the gradient; Nesterov's average of it and the momentum to `x`, its rows so long that no singular value is
above one. */
static void average(const Matrix *matrix, const Rates *rates, int turned, int64_t m, Half *x) {
    const float momentum = rates->momentum, length = 1 / (rates->larger * sqrtf(matrix->rows));
    for (int64_t row = 0; row < matrix->rows; row++) {
        const float *gradient = matrix->gradient + row * matrix->columns;
        float *average = matrix->momentum + row * matrix->columns;
        __m512 squares = _mm512_setzero_ps();
        for (int64_t c = 0; c < matrix->columns; c += LANES) {
            const __m512 new = _mm512_loadu_ps(gradient + c);
            const __m512 all = between(new, _mm512_loadu_ps(average + c), momentum);
            const __m512 ahead = between(new, all, momentum);
            _mm512_storeu_ps(average + c, all);
            squares = _mm512_fmadd_ps(ahead, ahead, squares);
        }
        const __m512 scale = _mm512_set1_ps(length / fmaxf(sqrtf(_mm512_reduce_add_ps(squares)), 1e-12f));
        for (int64_t c = 0; c < matrix->columns; c += LANES) {
            const __m512 new = _mm512_loadu_ps(gradient + c);
            const __m512 ahead = between(new, _mm512_loadu_ps(average + c), momentum);
            const __m256i scaled = narrow(_mm512_mul_ps(ahead, scale));
            if (turned) {
                Half values[LANES];
                store(values, scaled);
                for (int i = 0; i < LANES; i++)
                    x[(c + i) * (m + GAP) + row] = values[i];
            } else
                store(x + row * (m + GAP) + c, scaled);
        }
    }
}

/* What each row of the update is multiplied with: one over the root of its average square, which takes the update in,
times what gives the whole the norm of the root of its rows. */
static void balance(const Matrix *matrix, float beta2, int turned, int64_t n, int64_t m, const Half *x,
                    float *factors) {
    memset(factors, 0, matrix->rows * sizeof(float));
    for (int64_t row = 0; row < n; row++) {
        __m512 sums = _mm512_setzero_ps();
        for (int64_t c = 0; c < m; c += LANES) {
            const __m512 values = widen(load(x + row * (m + GAP) + c));
            if (turned)
                _mm512_storeu_ps(factors + c, _mm512_fmadd_ps(values, values, _mm512_loadu_ps(factors + c)));
            else
                sums = _mm512_fmadd_ps(values, values, sums);
        }
        if (!turned)
            factors[row] = _mm512_reduce_add_ps(sums);
    }
    double total = 0;
    for (int64_t row = 0; row < matrix->rows; row++) {
        const float sum = factors[row];
        float *square = matrix->squares + row;
        *square += (1 - beta2) * (sum / matrix->columns - *square);
        factors[row] = 1 / sqrtf(fmaxf(*square, 1e-10f));
        total += sum * factors[row] * factors[row];
    }
    const float scale = sqrt(matrix->rows) / fmax(sqrt(total), 1e-10);
    for (int64_t row = 0; row < matrix->rows; row++)
        factors[row] *= scale;
}

/* The weight loses the update times the rate; it decays where both have one sign. */
static void update(const Matrix *matrix, const Rates *rates, int turned, int64_t m, const Half *x,
                   const float *factors) {
    const __m512 rate = _mm512_set1_ps(rates->learning_rate), decay = _mm512_set1_ps(rates->weight_decay);
    for (int64_t row = 0; row < matrix->rows; row++)
        for (int64_t c = 0; c < matrix->columns; c += LANES) {
            float *at = matrix->weight + row * matrix->columns + c;
            Half values[LANES];
            for (int i = 0; turned && i < LANES; i++)
                values[i] = x[(c + i) * (m + GAP) + row];
            const __m512 weight = _mm512_loadu_ps(at);
            const __m512 step = _mm512_mul_ps(widen(load(turned ? values : x + row * (m + GAP) + c)),
                                              _mm512_set1_ps(factors[row]));
            const __mmask16 decays =
                _mm512_cmp_ps_mask(_mm512_mul_ps(weight, step), _mm512_setzero_ps(), _CMP_GE_OQ);
            const __m512 loss = _mm512_mask3_fmadd_ps(decay, weight, step, decays);
            _mm512_storeu_ps(at, _mm512_fnmadd_ps(rate, loss, weight));
        }
}

/* Updates a matrix; false without memory. */
static int learn(const Matrix *matrix, const Rates *rates) {
    const int turned = matrix->rows > matrix->columns;
    const int64_t n = turned ? matrix->columns : matrix->rows, m = turned ? matrix->rows : matrix->columns;
    const int64_t rows = padded(n, TALL);
    const size_t sizes[] = {rows * (m + GAP) * sizeof(Half), rows * (n + GAP) * sizeof(Half),
                            rows * (n + GAP) * sizeof(Half), n * m * sizeof(Half), matrix->rows * sizeof(float)};
    void *parts[5], *room = make_room(sizes, parts, 5);
    if (!room)
        return 0;
    Half *x = parts[0], *square = parts[1], *both = parts[2];
    Pair *panels = parts[3];
    float *factors = parts[4];
    memset(x + n * (m + GAP), 0, (rows - n) * (m + GAP) * sizeof(Half));
    average(matrix, rates, turned, m, x);
    for (int step = 0; step < STEPS; step++) { /* of the Polar Express: X = a X + (b S + c S S) X, of S = X Xt */
        const float *abc = rates->abc[step];
        pack_turned(n, m, x, panels);
        combine(rows, m, n, 0, NULL, 1, x, panels, square);
        pack(n, n, square, panels);
        combine(rows, n, n, abc[1], square, abc[2], square, panels, both);
        pack(n, m, x, panels);
        combine(rows, n, m, abc[0], x, 1, both, panels, x);
    }
    balance(matrix, rates->beta2, turned, n, m, x, factors);
    update(matrix, rates, turned, m, x, factors);
    free(room);
    return 1;
}

/* Updates `count` matrices, the largest first. Returns 0, or 1 without memory. */
int muon(int64_t count, const Matrix *matrices, const Rates *rates, int threads) {
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++)
        if (!learn(matrices + i, rates))
#pragma omp atomic write
            failed = 1;
    return failed;
}
