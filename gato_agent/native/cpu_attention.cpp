// Sliding-window attention of whole sequences on a CPU, forward and backward, within episodes and towards their prefixes.
//
// Five numbers a token say which keys each query attends to: no mask is read, and no key outside is touched. The scores
// of one block of queries and all its keys fit into the processor's cache. Each head of a sequence belongs to one
// thread: sums do not depend on the number of threads.

#include <type_traits>
#include <vector>

#include "simd.h"

#define GATO_ERRORS(X)                                                                                  \
    X(BAD_SHAPE, "the shape of the sequences is not one that the CPU attention can run")                \
    X(BAD_POINTER, "an array that attention needs is missing")                                          \
    X(BAD_INDEX, "a position has no rotary angles")                                                     \
    X(BAD_FIRST, "the first recent key of a query must be in the sequence, and not after the query")    \
    X(BAD_PREFIX, "the prefix keys of a query must be in the sequence")

#include "abi.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int32_t ABI = 1;         // raised at every change of a struct's fields or of their meaning
constexpr int LARGEST = 1 << 20;   // size of a dimension
constexpr int ROWS = 48;           // queries of a block
constexpr bool FEW = SUMS < 24;    // 16 registers rather than 32

struct Pair { uint32_t bits; };  // two bfloat16, which one instruction multiplies by two others and sums
inline Vector load(const Pair *p) { Vector v; std::memcpy(&v, p, sizeof v); return v; }

#ifdef __AVX512BF16__
typedef Pair Narrow;  // type of the terms of a product of bfloat16
inline Halves halves(Vector x) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
inline void multiply(Vector &sum, Pair x, Vector w) {
    sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x.bits), (__m512bh)w);
}
// Pairs of neighbours of x [n], and of neighbouring rows of x [rows][width].
inline void along(const float *x, long n, Pair *to) {
    for (long i = 0; i < n; i += WIDE) { const Halves h = halves(load(x + i)); std::memcpy(to + i / 2, &h, sizeof h); }
}
inline void down(const float *x, long rows, long width, Pair *to) {
    for (long i = 0; i < rows; i += 2, to += width)
        for (long c = 0; c < width; c += WIDE) {
            const Words a = __builtin_convertvector(halves(load(x + i * width + c)), Words);
            const Words b = __builtin_convertvector(halves(load(x + (i + 1) * width + c)), Words);
            const Words both = a | b << 16;
            std::memcpy(to + c, &both, sizeof both);
        }
}
#else
typedef float Narrow;
#endif
inline void multiply(Vector &sum, float x, Vector w) { sum += x * w; }

// Kind<T>::Type: terms of a product of values of type T. HELD: terms that one of them holds.
template <class T> struct Kind { typedef float Type; };
template <> struct Kind<bf16> { typedef Narrow Type; };
template <class E> constexpr int HELD = sizeof(E) == sizeof(Pair) && !std::is_same<E, float>::value ? 2 : 1;

// x [n], or [rows][width], as terms of a product; floats are returned as they are.
inline const float *along(const float *x, long, std::vector<float> &) { return x; }
inline const float *down(const float *x, long, long, std::vector<float> &) { return x; }
template <class E> const E *along(const float *x, long n, std::vector<E> &space) {
    space.resize(n / HELD<E>);
    along(x, n, space.data());
    return space.data();
}
template <class E> const E *down(const float *x, long rows, long width, std::vector<E> &space) {
    space.resize(rows * width / HELD<E>);
    down(x, rows, width, space.data());
    return space.data();
}

// y[M, NR WIDE] (+)= sum over k of x[m, k] w[k, NR WIDE], where x[m, k] is at m * sm + k * sk. E may be a pair of terms.
template <int M, int NR, class E>
inline void tile(const E *x, long sm, long sk, int K, const E *w, long ldw, float *y, long ldy, bool add) {
    Vector sum[M][NR];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NR; j++) sum[i][j] = add ? load(y + i * ldy + j * WIDE) : Vector{};
    for (int k = 0; k < K; k++) {
        Vector v[NR];
        for (int j = 0; j < NR; j++) v[j] = load(w + k * ldw + j * WIDE);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NR; j++) multiply(sum[i][j], x[i * sm + k * sk], v[j]);
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NR; j++) store(y + i * ldy + j * WIDE, sum[i][j]);
}

// s[ROWS, PANEL] = x[ROWS, terms] panel[terms, PANEL]
template <class E>
void scores(const E *x, int terms, const E *panel, float *s, long lds) {
    constexpr int NR = FEW ? 2 : 4;
    for (int c = 0; c < PANEL; c += NR * WIDE)
        for (int i = 0; i < ROWS; i += 6)
            tile<6, NR>(x + i * terms, terms, 1, terms, panel + c, PANEL, s + i * lds + c, lds, false);
}

// y[ROWS, size] += s[ROWS, terms] v[terms, size]
template <class E>
void gather(const E *s, long lds, int terms, const E *v, int size, float *y) {
    for (int c = 0; c < size; c += 2 * WIDE)
        for (int i = 0; i < ROWS; i += FEW ? 6 : 12)
            tile<FEW ? 6 : 12, 2>(s + i * lds, lds, 1, terms, v + c, size, y + i * size + c, size, true);
}

// y[keys, size] += transposed s[terms, keys] x[terms, size]
template <class E>
void scatter(const E *s, long lds, int keys, int terms, const E *x, int size, float *y) {
    for (int c = 0; c < size; c += 2 * WIDE)
        for (int j = 0; j < keys; j += FEW ? 4 : 8)
            tile<FEW ? 4 : 8, 2>(s + j, 1, lds, terms, x + c, size, y + j * size + c, size, true);
}

}  // namespace

extern "C" {

struct AttentionInputs {
    int32_t batch, length, heads, size, context, threads;
    int32_t positions;  // rows of cos and sin
    // [batch][length]: position and episode of each token; the rest are places in the sequence. Query q attends to key k
    // if first[q] <= k <= q or prefix_first[q] <= k < prefix_end[q], and if q <= until[k]. For keys of the prefix a query
    // at or beyond the end of the context has the rotary angles of the last position of the context.
    const int32_t *index, *segment, *first, *until, *prefix_first, *prefix_end;
    const float *cos, *sin;  // [positions][size / 2]
};
}

namespace {

// The first reason not to run, or NONE: every number that indexes memory is checked before it does.
Error check(const AttentionInputs &in) {
    for (const int32_t x : {in.batch, in.length, in.heads, in.size})
        if (x < 1 || x > LARGEST) return BAD_SHAPE;
    if (in.size % (2 * WIDE) || int64_t(in.batch) * in.heads > INT32_MAX) return BAD_SHAPE;
    if (in.context < 1 || in.threads < 1 || in.threads > MOST_THREADS || in.positions < 1) return BAD_SHAPE;
    for (const int32_t *x : {in.index, in.segment, in.first, in.until, in.prefix_first, in.prefix_end})
        if (!x) return BAD_POINTER;
    if (!in.cos || !in.sin) return BAD_POINTER;
    for (long i = 0; i < long(in.batch) * in.length; i++) {
        if (in.index[i] < 0 || in.index[i] >= in.positions) return BAD_INDEX;
        if (in.first[i] < 0 || in.first[i] > i % in.length) return BAD_FIRST;
        const bool in_sequence = in.prefix_first[i] >= 0 && in.prefix_end[i] <= in.length;
        if (in.prefix_first[i] < in.prefix_end[i] && !in_sequence) return BAD_PREFIX;
    }
    return NONE;
}

// One head of one sequence: queries, keys and values as floats, rotated, and packed as products read them.
template <class T>
struct Head {
    typedef typename Kind<T>::Type E;
    const AttentionInputs &in;
    const int n, padded, size;
    const int32_t *index, *segment, *first, *prefix_first, *prefix_end;
    std::vector<int32_t> until;                  // [padded]
    std::vector<float> q, prefix_query, k, v;    // [padded][size]; prefix_query: rotated as the context's last position
    std::vector<E> k_panels, v_panels, k_space, v_space;
    const E *k_down, *v_down;

    Head(const AttentionInputs &in, int sequence, int head, const T *qkv, bool backward)
        : in(in), n(in.length), padded((n + PANEL - 1) / PANEL * PANEL), size(in.size), index(in.index + long(sequence) * n),
          segment(in.segment + long(sequence) * n), first(in.first + long(sequence) * n),
          prefix_first(in.prefix_first + long(sequence) * n), prefix_end(in.prefix_end + long(sequence) * n),
          until(in.until + long(sequence) * n, in.until + long(sequence) * n + n), q(long(padded) * size),
          prefix_query(q.size()), k(q.size()), v(q.size()) {
        const long row = 3L * in.heads * size;
        const T *from = qkv + sequence * n * row + head * size;
        const float scale = 1 / std::sqrt(float(size));
        until.resize(padded, -1);
        for (int i = 0; i < n; i++, from += row) {
            rotate(from, index[i], scale, &q[long(i) * size]);
            if (prefix_first[i] < prefix_end[i])
                rotate(from, std::min(index[i], in.context - 1), scale, &prefix_query[long(i) * size]);
            rotate(from + in.heads * size, index[i], 1, &k[long(i) * size]);
            for (int c = 0; c < size; c++) v[long(i) * size + c] = get(from + 2 * in.heads * size + c);
        }
        panels(k, k_panels);
        if (backward) panels(v, v_panels), k_down = down(k.data(), padded, size, k_space);
        else v_down = down(v.data(), padded, size, v_space);
    }

    void rotate(const T *x, int position, float scale, float *to) const {
        const int half = size / 2;
        const float *cos = in.cos + long(position) * half, *sin = in.sin + long(position) * half;
        for (int c = 0; c < half; c++) {
            const float a = scale * get(x + c), b = scale * get(x + c + half);
            to[c] = a * cos[c] - b * sin[c], to[c + half] = b * cos[c] + a * sin[c];
        }
    }

    void rotate_back(const float *x, int position, float scale, float *to) const {  // added to `to`
        const int half = size / 2;
        const float *cos = in.cos + long(position) * half, *sin = in.sin + long(position) * half;
        for (int c = 0; c < half; c++) {
            const float a = scale * x[c], b = scale * x[c + half];
            to[c] += a * cos[c] + b * sin[c], to[c + half] += b * cos[c] - a * sin[c];
        }
    }

    void panels(const std::vector<float> &x, std::vector<E> &to) const {  // [padded / PANEL][size / HELD][PANEL]
        std::vector<E> space;
        const E *rows = along(x.data(), long(x.size()), space);
        const int terms = size / HELD<E>;
        to.resize(long(padded) * terms);
        for (int i = 0; i < padded; i++)
            for (int c = 0; c < terms; c++) to[(long(i / PANEL) * terms + c) * PANEL + i % PANEL] = rows[long(i) * terms + c];
    }
};

struct QueryBlock {
    int first, last;             // queries
    int last_first;              // largest first recent key of a query
    int prefix_from, prefix_to;  // prefix keys, in whole panels; none where equal
    int from, to;                // recent keys, in whole panels
    int prefix_columns() const { return prefix_to - prefix_from; }
    int columns() const { return prefix_columns() + to - from; }
    int key(int column) const { return column < prefix_columns() ? prefix_from + column : from + column - prefix_columns(); }
    int column(bool in_prefix) const { return in_prefix ? 0 : prefix_columns(); }
    int keys(bool in_prefix) const { return in_prefix ? prefix_columns() : to - from; }
    int first_key(bool in_prefix) const { return in_prefix ? prefix_from : from; }
};

// Call `work` for each block of queries. A block lies within one episode.
template <class T, class Work>
void each_block(const Head<T> &h, Work work) {
    for (int begin = 0, end; begin < h.n; begin = end) {
        end = begin;
        while (end < h.n && h.segment[end] == h.segment[begin]) end++;
        for (int first = begin; first < end; first += ROWS) {
            const int last = std::min(first + ROWS, end);
            int low = last, last_first = 0, prefix_first = h.n, prefix_end = 0;
            for (int i = first; i < last; i++) {
                low = std::min(low, int(h.first[i])), last_first = std::max(last_first, int(h.first[i]));
                if (h.prefix_first[i] < h.prefix_end[i])
                    prefix_first = std::min(prefix_first, int(h.prefix_first[i])), prefix_end = std::max(prefix_end, int(h.prefix_end[i]));
            }
            QueryBlock b{first, last, last_first, 0, 0, low / PANEL * PANEL, (last + PANEL - 1) / PANEL * PANEL};
            if (prefix_first < prefix_end)
                b.prefix_from = prefix_first / PANEL * PANEL, b.prefix_to = (prefix_end + PANEL - 1) / PANEL * PANEL;
            work(b);
        }
    }
}

// Set the scores of the keys of a panel to MASKED where a query of the block does not attend to them.
template <class T>
void mask(const Head<T> &h, const QueryBlock &b, int key, bool in_prefix, float *s, long lds) {
    Integers offsets;
    for (int j = 0; j < WIDE; j++) offsets[j] = j;
    for (int i = b.first; i < b.last; i++, s += lds) {
        const int from = in_prefix ? h.prefix_first[i] : h.first[i], end = in_prefix ? h.prefix_end[i] : i + 1;
        for (int j = 0; j < PANEL; j += WIDE) {
            const Integers at = offsets + (key + j);
            Integers until;
            std::memcpy(&until, &h.until[key + j], sizeof until);
            const Integers visible = (at >= from) & (at < end) & (until >= i);
            store(s + j, visible ? load(s + j) : Vector{} + MASKED);
        }
    }
}

// Scores of a block's queries with its keys. Columns of prefix keys come first.
template <class T, class E>
void score(const Head<T> &h, const QueryBlock &b, const E *q, const E *prefix_query, float *s) {
    const int columns = b.columns(), terms = h.size / HELD<E>;
    for (int at = 0; at < columns; at += PANEL) {
        const bool in_prefix = at < b.prefix_columns();
        const int key = b.key(at);
        scores(in_prefix ? prefix_query : q, terms, &h.k_panels[long(key) * terms], s + at, columns);
        bool whole = !in_prefix && key >= b.last_first && key + PANEL <= b.first + 1;
        for (int j = 0; whole && j < PANEL; j++) whole = h.until[key + j] >= b.last - 1;
        if (!whole) mask(h, b, key, in_prefix, s + at, columns);
    }
}

// A block's rows, zeros after the last.
struct PaddedRows {
    std::vector<float> x;
    explicit PaddedRows(int size) : x(ROWS * size) {}
    template <class T> const float *copy(const T *from, long stride, int rows, int size) {
        std::fill(x.begin(), x.end(), 0.0f);
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < size; c++) x[i * size + c] = get(from + i * stride + c);
        return x.data();
    }
};

template <class T>
void forward(const AttentionInputs &in, int sequence, int head, const T *qkv, T *y, float *sums) {
    typedef typename Kind<T>::Type E;
    const Head<T> h(in, sequence, head, qkv, false);
    const int size = in.size, terms = size / HELD<E>;
    const long row = long(in.heads) * size;
    sums += (long(sequence) * in.heads + head) * in.length;
    y += sequence * in.length * row + head * size;
    std::vector<float> s(long(ROWS) * 2 * h.padded), out(ROWS * size);
    std::vector<E> q_space, prefix_space, s_space;
    PaddedRows q_rows(size), prefix_rows(size);
    each_block(h, [&](const QueryBlock &b) {
        const int rows = b.last - b.first, columns = b.columns();
        const E *q = along(q_rows.copy(&h.q[long(b.first) * size], size, rows, size), ROWS * size, q_space);
        const E *prefix_query = along(prefix_rows.copy(&h.prefix_query[long(b.first) * size], size, rows, size),
                                      ROWS * size, prefix_space);
        score(h, b, q, prefix_query, s.data());
        float total[ROWS] = {};
        for (int i = 0; i < rows; i++) {
            float *x = &s[long(i) * columns];
            Vector most = load(x), sum = {};
            for (int j = WIDE; j < columns; j += WIDE) { const Vector o = load(x + j); most = o > most ? o : most; }
            float top = most[0];
            for (int j = 1; j < WIDE; j++) top = std::max(top, most[j]);
            for (int j = 0; j < columns; j += WIDE) {
                const Vector p = exp_nonpositive(load(x + j) - top);
                sum += p, store(x + j, p);
            }
            for (int j = 0; j < WIDE; j++) total[i] += sum[j];
            sums[b.first + i] = top + std::log(total[i]);
        }
        std::fill(out.begin(), out.end(), 0.0f);
        const E *p = along(s.data(), long(ROWS) * columns, s_space);
        for (const bool in_prefix : {true, false}) {
            const int at = b.column(in_prefix), keys = b.keys(in_prefix), key = b.first_key(in_prefix);
            if (keys) gather(p + at / HELD<E>, columns / HELD<E>, keys / HELD<E>, h.v_down + long(key) * terms, size, out.data());
        }
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < size; c++) put(y + (b.first + i) * row + c, out[i * size + c] / total[i]);
    });
}

template <class T>
void backward(const AttentionInputs &in, int sequence, int head, const T *qkv, const T *y, const float *sums, const T *dy,
              T *dqkv) {
    typedef typename Kind<T>::Type E;
    const Head<T> h(in, sequence, head, qkv, true);
    const int size = in.size, terms = size / HELD<E>;
    const long row = long(in.heads) * size;
    sums += (long(sequence) * in.heads + head) * in.length;
    y += sequence * in.length * row + head * size, dy += sequence * in.length * row + head * size;
    dqkv += sequence * in.length * 3 * row + head * size;
    const float scale = 1 / std::sqrt(float(size));
    std::vector<float> s(long(ROWS) * 2 * h.padded), d(s.size()), dq(ROWS * size), dk(h.k.size()), dv(dk.size());
    std::vector<float> rotated(size);
    std::vector<E> space[8];
    PaddedRows q_rows(size), prefix_rows(size), g_rows(size);
    each_block(h, [&](const QueryBlock &b) {
        const int rows = b.last - b.first, columns = b.columns();
        const float *q = q_rows.copy(&h.q[long(b.first) * size], size, rows, size);
        const float *prefix_query = prefix_rows.copy(&h.prefix_query[long(b.first) * size], size, rows, size);
        const float *g = g_rows.copy(dy + b.first * row, row, rows, size);
        score(h, b, along(q, ROWS * size, space[0]), along(prefix_query, ROWS * size, space[1]), s.data());
        const E *g_along = along(g, ROWS * size, space[2]);
        for (int at = 0; at < columns; at += PANEL)
            scores(g_along, terms, &h.v_panels[long(b.key(at)) * terms], &d[at], columns);
        for (int i = 0; i < ROWS; i++) {
            float *p = &s[long(i) * columns], *x = &d[long(i) * columns];
            if (i >= rows) { std::fill(p, p + columns, 0.0f), std::fill(x, x + columns, 0.0f); continue; }
            float delta = 0;
            for (int c = 0; c < size; c++) delta += g[i * size + c] * get(y + (b.first + i) * row + c);
            const float sum = sums[b.first + i];
            for (int j = 0; j < columns; j += WIDE) {
                const Vector e = exp_nonpositive(load(p + j) - sum);
                store(p + j, e), store(x + j, e * (load(x + j) - delta));
            }
        }
        const E *p_down = down(s.data(), ROWS, columns, space[3]), *d_down = down(d.data(), ROWS, columns, space[4]);
        const E *d_along = along(d.data(), long(ROWS) * columns, space[5]), *g_down = down(g, ROWS, size, space[6]);
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < size; c++) put(dqkv + (b.first + i) * 3 * row + c, 0.0f);
        for (const bool in_prefix : {true, false}) {
            const int at = b.column(in_prefix), keys = b.keys(in_prefix), key = b.first_key(in_prefix);
            if (!keys) continue;
            scatter(p_down + at, columns, keys, ROWS / HELD<E>, g_down, size, &dv[long(key) * size]);
            const E *q_down = down(in_prefix ? prefix_query : q, ROWS, size, space[7]);
            scatter(d_down + at, columns, keys, ROWS / HELD<E>, q_down, size, &dk[long(key) * size]);
            std::fill(dq.begin(), dq.end(), 0.0f);
            gather(d_along + at / HELD<E>, columns / HELD<E>, keys / HELD<E>, h.k_down + long(key) * terms, size, dq.data());
            for (int i = 0; i < rows; i++) {
                const int position = h.index[b.first + i];
                T *to = dqkv + (b.first + i) * 3 * row;
                for (int c = 0; c < size; c++) rotated[c] = get(to + c);
                h.rotate_back(&dq[i * size], in_prefix ? std::min(position, in.context - 1) : position, scale, rotated.data());
                for (int c = 0; c < size; c++) put(to + c, rotated[c]);
            }
        }
    });
    for (int i = 0; i < in.length; i++) {
        std::fill(rotated.begin(), rotated.end(), 0.0f);
        h.rotate_back(&dk[long(i) * size], h.index[i], 1, rotated.data());
        T *to = dqkv + i * 3 * row + row;
        for (int c = 0; c < size; c++) put(to + c, rotated[c]), put(to + row + c, dv[long(i) * size + c]);
    }
}

template <class Work>
void each_head(const AttentionInputs &in, Work work) {
    const int threads = usable(in.threads);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int i = 0; i < in.batch * in.heads; i++) work(i / in.heads, i % in.heads);
}

}  // namespace

extern "C" {

// qkv [batch][length][3][heads][size] -> y [batch][length][heads][size], sums [batch][heads][length]: log of the sum of
// exponentials. `half`: qkv and y are bfloat16. Returns an error code, and then has written nothing.
int32_t gato_attend(const AttentionInputs *w, int32_t half, const void *qkv, void *y, float *sums) {
    if (const Error error = check(*w)) return error;
    each_head(*w, [&](int sequence, int head) {
        if (half) forward(*w, sequence, head, (const bf16 *)qkv, (bf16 *)y, sums);
        else forward(*w, sequence, head, (const float *)qkv, (float *)y, sums);
    });
    return NONE;
}

// Gradient dqkv from that of y; errors as above.
int32_t gato_attend_backward(
    const AttentionInputs *w, int32_t half, const void *qkv, const void *y, const float *sums, const void *dy, void *dqkv
) {
    if (const Error error = check(*w)) return error;
    each_head(*w, [&](int sequence, int head) {
        if (half) backward(*w, sequence, head, (const bf16 *)qkv, (const bf16 *)y, sums, (const bf16 *)dy, (bf16 *)dqkv);
        else backward(*w, sequence, head, (const float *)qkv, (const float *)y, sums, (const float *)dy, (float *)dqkv);
    });
    return NONE;
}

int32_t gato_abi() { return ABI; }

int32_t gato_sizes(int32_t *sizes, int32_t capacity) { return write_sizes({sizeof(AttentionInputs)}, sizes, capacity); }
}
