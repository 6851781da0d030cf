/* Kernels over packed rows: what a step of ragged streams spends most of its time with.

   A row's result depends on that row alone, since every element is one chain of fused multiply-adds in a fixed order, whatever
   rows are computed beside it and by however many threads. Windows are read where they lie, by a table of addresses, as Dukhan
   describes for images (The Indirect Convolution Algorithm, 2019, arXiv:1907.02129); they are not copied together first.

   Compiled once for each instruction set; see hatch_build.py. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, TALL = 12 };
typedef __m512 Vector;
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SPREAD _mm512_set1_ps
#define MULTIPLY_ADD _mm512_fmadd_ps
#define ADD _mm512_add_ps
#define LARGER _mm512_max_ps
#define ZERO _mm512_setzero_ps
#elif defined(__AVX2__) && defined(__FMA__)
enum { LANES = 8, TALL = 6 };
typedef __m256 Vector;
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SPREAD _mm256_set1_ps
#define MULTIPLY_ADD _mm256_fmadd_ps
#define ADD _mm256_add_ps
#define LARGER _mm256_max_ps
#define ZERO _mm256_setzero_ps
#else
#error "no vectors are known for this processor"
#endif

/* A tile of the result is TALL rows by WIDE columns: as many sums as there are registers for. */
enum { WIDE = 2 * LANES, FEW_WEIGHTS = 8192, SMALL_BLOCK = 4096, LARGE_BLOCK = 32768 };

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("clang loop unroll(full)")

/* Of `rows` windows of `taps` rows of `depth` numbers: each window times the weight, plus the bias, where `rectified & 1` what is
   negative becomes zero, then a row is added, and where `rectified & 2` the same once more. Tap `t` of window `m` is row `at[m * taps + t]` of the source, or row `m` where there are no addresses.
   The weight is `[columns / WIDE, taps * depth, WIDE]`, filled up with zeros. Strides are in numbers. */
typedef struct {
    const float *source, *weight, *bias, *added;
    float *out;
    const int32_t *at;
    int64_t source_stride, added_stride, out_stride, taps, depth, columns, rectified;
} Product;

/* What torch's relu makes of it: NaN stays NaN, since the second operand is returned where either is one. */
INLINE Vector rectified(Vector x) { return LARGER(ZERO(), x); }

INLINE Vector load_some(const float *from, int64_t count) {
    float some[LANES] = {0};
    memcpy(some, from, count * sizeof(float));
    return LOAD(some);
}

INLINE void store_some(float *to, Vector x, int64_t count) {
    float some[LANES];
    STORE(some, x);
    memcpy(to, some, count * sizeof(float));
}

INLINE Vector finished(const Product *p, Vector x, Vector added, int adds) {
    if (p->rectified & 1) x = rectified(x);
    if (adds) x = ADD(added, x);
    return p->rectified & 2 ? rectified(x) : x;
}

/* Rows `row` to `row + R` of columns `column` to `column + V * LANES`. */
INLINE void tile(const int R, const int V, const Product *p, int64_t row, int64_t column, const float *weight, const float *start) {
    Vector sum[R][V];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++) sum[r][v] = LOAD(start + v * LANES);
    const int64_t taps = p->taps, depth = p->depth;
    for (int64_t tap = 0; tap < taps; tap++) {
        const float *x[R];
        UNROLL for (int r = 0; r < R; r++)
            x[r] = p->source + (p->at ? p->at[(row + r) * taps + tap] : row + r) * p->source_stride;
        for (int64_t c = 0; c < depth; c++, weight += WIDE) {
            Vector w[V];
            UNROLL for (int v = 0; v < V; v++) w[v] = LOAD(weight + v * LANES);
            UNROLL for (int r = 0; r < R; r++) {
                const Vector spread = SPREAD(x[r][c]);
                UNROLL for (int v = 0; v < V; v++) sum[r][v] = MULTIPLY_ADD(spread, w[v], sum[r][v]);
            }
        }
    }
    const int64_t left = p->columns - column;
    UNROLL for (int r = 0; r < R; r++) {
        float *out = p->out + (row + r) * p->out_stride + column;
        const float *added = p->added ? p->added + (row + r) * p->added_stride + column : 0;
        UNROLL for (int v = 0; v < V; v++) {
            const int64_t count = left - v * LANES;
            if (count >= LANES)
                STORE(out + v * LANES, finished(p, sum[r][v], added ? LOAD(added + v * LANES) : ZERO(), !!added));
            else if (count > 0)
                store_some(
                    out + v * LANES,
                    finished(p, sum[r][v], added ? load_some(added + v * LANES, count) : ZERO(), !!added),
                    count
                );
        }
    }
}

#define TILE(R) case R: if (both) tile(R, 2, p, row, column, weight, start); else tile(R, 1, p, row, column, weight, start); break
/* Fewer rows than a whole tile has. */
static void low_tile(int64_t rows, int both, const Product *p, int64_t row, int64_t column, const float *weight, const float *start) {
    switch (rows) {
        TILE(1); TILE(2); TILE(3); TILE(4); TILE(5);
#if defined(__AVX512F__)
        TILE(6); TILE(7); TILE(8); TILE(9); TILE(10); TILE(11);
#endif
    }
}

/* Rings are far apart and larger than any cache: what the next tile reads is asked for while this one is computed. */
INLINE void ask_for(const Product *p, int64_t row, int64_t stop) {
    if (!p->at || row + TALL > stop) return;
    const int64_t lines = (p->depth * (int64_t)sizeof(float) + 63) / 64;
    for (int64_t i = row * p->taps; i < (row + TALL) * p->taps; i++) {
        const char *x = (const char *)(p->source + p->at[i] * p->source_stride);
        for (int64_t line = 0; line < lines && line < 4; line++) __builtin_prefetch(x + 64 * line);
    }
}

/* Rows `begin` to `end`; as torch_parallel_for calls it. */
void product(int64_t begin, int64_t end, void *context) {
    const Product *p = context;
    const int64_t inner = p->taps * p->depth;
    /* Few weights stay in the innermost cache whatever lies beside them. Many pass through it once for each block of rows, which
       may then be as long as the next cache allows. */
    int64_t block = (inner * p->columns <= FEW_WEIGHTS ? SMALL_BLOCK : LARGE_BLOCK) / (inner ? inner : 1) / TALL * TALL;
    if (block < TALL) block = TALL;
    for (int64_t first = begin; first < end; first += block) {
        const int64_t stop = first + block < end ? first + block : end;
        const float *weight = p->weight;
        for (int64_t column = 0; column < p->columns; column += WIDE, weight += inner * WIDE) {
            const int64_t left = p->columns - column;
            const int both = left > LANES;
            float start[WIDE] = {0};
            memcpy(start, p->bias + column, (left < WIDE ? left : WIDE) * sizeof(float));
            int64_t row = first;
            for (; row + TALL <= stop; row += TALL) {
                if (!column) ask_for(p, row + TALL, end);
                if (both)
                    tile(TALL, 2, p, row, column, weight, start);
                else
                    tile(TALL, 1, p, row, column, weight, start);
            }
            low_tile(stop - row, both, p, row, column, weight, start);
        }
    }
}

/* The same, each channel by itself: `weight [taps, depth]`, and as many columns as `depth`. */
void depthwise(int64_t begin, int64_t end, void *context) {
    const Product *p = context;
    const int64_t taps = p->taps, depth = p->depth;
    for (int64_t row = begin; row < end; row++) {
        float *out = p->out + row * p->out_stride;
        const float *added = p->added ? p->added + row * p->added_stride : 0;
        for (int64_t c = 0; c < depth; c += LANES) {
            const int64_t count = depth - c < LANES ? depth - c : LANES;
            Vector sum = count == LANES ? LOAD(p->bias + c) : load_some(p->bias + c, count);
            for (int64_t tap = 0; tap < taps; tap++) {
                const float *x = p->source + (p->at ? p->at[row * taps + tap] : row) * p->source_stride + c;
                const float *w = p->weight + tap * depth + c;
                if (count == LANES)
                    sum = MULTIPLY_ADD(LOAD(x), LOAD(w), sum);
                else
                    sum = MULTIPLY_ADD(load_some(x, count), load_some(w, count), sum);
            }
            Vector addend = ZERO();
            if (added) addend = count == LANES ? LOAD(added + c) : load_some(added + c, count);
            sum = finished(p, sum, addend, !!added);
            if (count == LANES)
                STORE(out + c, sum);
            else
                store_some(out + c, sum, count);
        }
    }
}

/* Elements of every stream: its slot, the first of them, the one after the last, and the packed row of the first. */
typedef struct {
    const int64_t *slots, *start, *stop, *packed;
} Elements;

/* Where the elements lie that windows read. Output element `j` of a stream reads, at tap `t` of reading `r`, the element
   `i = j * stride + offsets[r * taps + t]` of its input: a fill row where `i` lies below `low[r]` or from `limit[r * streams + b]`
   on, a row of the staging area from the input's first new element on, a row of the ring before it. A reading without padding
   has `fill[r]` below 0, one that reads no ring `depth[r]` 0; `limit` may be missing. */
typedef struct {
    int32_t *found; /* [readings, rows, taps] */
    const Elements *out, *into;
    const int64_t *offsets, *depth, *ring_at, *low, *fill, *limit; /* [readings, taps], [readings], …, [readings, streams] */
    int64_t streams, readings, rows, taps, stride, stage_at;
} Addressing;

/* Of streams `begin` to `end`. */
void addresses(int64_t begin, int64_t end, void *context) {
    const Addressing *p = context;
    const int64_t taps = p->taps, stride = p->stride;
    for (int64_t b = begin; b < end; b++) {
        const int64_t first = p->out->start[b], count = p->out->stop[b] - first;
        const int64_t origin = first * stride, fresh = p->into->start[b];
        if (count <= 0) continue;
        for (int64_t r = 0; r < p->readings; r++) {
            const int64_t depth = p->depth[r], low = p->low[r], fill = p->fill[r];
            const int64_t limit = p->limit ? p->limit[r * p->streams + b] : INT64_MAX;
            const int64_t staged = p->stage_at + p->into->packed[b] - fresh;
            const int64_t ring = p->ring_at[r] + p->out->slots[b] * depth, mask = depth - 1;
            const int64_t *offsets = p->offsets + r * taps;
            const int64_t last = origin + (count - 1) * stride + offsets[taps - 1];
            const int pads = fill >= 0 && (origin + offsets[0] < low || last >= limit);
            int32_t *found = p->found + (r * p->rows + p->out->packed[b]) * taps;
            for (int64_t j = 0, at = origin; j < count; j++, at += stride, found += taps) {
                for (int64_t t = 0; t < taps; t++) {
                    const int64_t i = at + offsets[t];
                    const int64_t row = i < fresh && depth ? ring + (i & mask) : staged + i;
                    found[t] = (int32_t)(pads && (i < low || i >= limit) ? fill : row);
                }
            }
        }
    }
}

/* Packed rows into rings of `depth` rows, a power of two; of more than `depth` of a stream the last ones stay. Element `j` of slot
   `s` is row `s * depth + j % depth`. A row has `channels` numbers. */
typedef struct {
    const float *rows;
    float *ring;
    const Elements *elements;
    int64_t depth, channels;
} Retirement;

/* Streams `begin` to `end`. */
void retire(int64_t begin, int64_t end, void *context) {
    const Retirement *p = context;
    const size_t bytes = p->channels * sizeof(float);
    for (int64_t b = begin; b < end; b++) {
        const int64_t start = p->elements->start[b], stop = p->elements->stop[b];
        int64_t first = stop - start > p->depth ? stop - p->depth : start;
        const float *from = p->rows + (p->elements->packed[b] + first - start) * p->channels;
        while (first < stop) {
            const int64_t place = first & (p->depth - 1);
            const int64_t left = stop - first, room = p->depth - place;
            const int64_t count = left < room ? left : room;
            memcpy(p->ring + (p->elements->slots[b] * p->depth + place) * p->channels, from, count * bytes);
            from += count * p->channels;
            first += count;
        }
    }
}

typedef void Kernel(int64_t begin, int64_t end, void *context);
typedef int32_t Share(int64_t begin, int64_t end, int64_t grain, Kernel *kernel, void *context);

typedef struct {
    Kernel *kernel;
    void *context;
    int64_t count, grain;
} Call;

/* One call after the other, each shared by threads; not 0 where that failed. */
int32_t run(const Call *calls, int64_t count, Share *share) {
    int32_t failed = 0;
    for (int64_t i = 0; i < count && !failed; i++)
        failed = share(0, calls[i].count, calls[i].grain, calls[i].kernel, calls[i].context);
    return failed;
}

/* Numbers per vector: a panel of the weight is twice as wide. */
int64_t lanes(void) { return LANES; }
