// Attention of whole windows on a CPU, forward and backward: sliding, within episodes, towards pinned prompts too.
//
// Which keys a query may attend to is known from five places a token, so no mask is read and no key outside is touched. Scores of one
// block of queries to all its keys stay in the processor's cache. A thread has a environment's head to itself: sums come out the
// same whatever the number of threads.

#include <type_traits>
#include <vector>

#include "simd.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int ROWS = 48;           // queries of a block
constexpr bool FEW = SUMS < 24;    // 16 registers rather than 32

struct Pair { uint32_t bits; };  // two bfloat16, which one instruction multiplies by two others and sums
inline Vector load(const Pair *p) { Vector v; std::memcpy(&v, p, sizeof v); return v; }

#ifdef __AVX512BF16__
typedef Pair Narrow;  // what bfloat16 is multiplied as
inline Halves halves(Vector x) { return (Halves)_mm512_cvtneps_pbh((__m512)x); }
inline void multiply(Vector &sum, Pair x, Vector w) {
    sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x.bits), (__m512bh)w);
}
// Side by side, and one above the other: x [n], or x [rows][width] in pairs of rows.
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

// What is multiplied for values of type T, and how many terms of a product it holds.
template <class T> struct Kind { typedef float Type; };
template <> struct Kind<bf16> { typedef Narrow Type; };
template <class E> constexpr int HELD = sizeof(E) == sizeof(Pair) && !std::is_same<E, float>::value ? 2 : 1;

// x [n], or [rows][width], as terms of a product: floats are so already.
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

struct Windows {
    int32_t batch, length, heads, size, context, threads;
    // [batch][length]: position and episode; the rest are places. Query q attends to key k where first[q] <= k <= q or
    // prefix_first[q] <= k < prefix_end[q] (from the end of the context, if q is beyond it), and q <= until[k].
    const int32_t *index, *segment, *first, *until, *prefix_first, *prefix_end;
    const float *cos, *sin;  // [positions][size / 2]
};
}

namespace {

// One head of one env: its tokens as floats, turned by their place, and what products with them need.
template <class T>
struct Head {
    typedef typename Kind<T>::Type E;
    const Windows &w;
    const int n, padded, size;
    const int32_t *index, *segment, *first, *prefix_first, *prefix_end;
    std::vector<int32_t> until;                  // [padded]
    std::vector<float> q, far, k, v;             // [padded][size]; q and far: turned, and turned as at the context's end
    std::vector<E> k_panels, v_panels, k_space, v_space;
    const E *k_down, *v_down;

    Head(const Windows &w, int env, int head, const T *qkv, bool backward)
        : w(w), n(w.length), padded((n + PANEL - 1) / PANEL * PANEL), size(w.size), index(w.index + long(env) * n),
          segment(w.segment + long(env) * n), first(w.first + long(env) * n),
          prefix_first(w.prefix_first + long(env) * n), prefix_end(w.prefix_end + long(env) * n),
          until(w.until + long(env) * n, w.until + long(env) * n + n), q(long(padded) * size), far(q.size()), k(q.size()), v(q.size()) {
        const long row = 3L * w.heads * size;
        const T *from = qkv + env * n * row + head * size;
        const float scale = 1 / std::sqrt(float(size));
        until.resize(padded, -1);
        for (int i = 0; i < n; i++, from += row) {
            turn(from, index[i], scale, &q[long(i) * size]);
            if (prefix_first[i] < prefix_end[i]) turn(from, std::min(index[i], w.context - 1), scale, &far[long(i) * size]);
            turn(from + w.heads * size, index[i], 1, &k[long(i) * size]);
            for (int c = 0; c < size; c++) v[long(i) * size + c] = get(from + 2 * w.heads * size + c);
        }
        panels(k, k_panels);
        if (backward) panels(v, v_panels), k_down = down(k.data(), padded, size, k_space);
        else v_down = down(v.data(), padded, size, v_space);
    }

    void turn(const T *x, int place, float scale, float *to) const {
        const int half = size / 2;
        const float *cos = w.cos + long(place) * half, *sin = w.sin + long(place) * half;
        for (int c = 0; c < half; c++) {
            const float a = scale * get(x + c), b = scale * get(x + c + half);
            to[c] = a * cos[c] - b * sin[c], to[c + half] = b * cos[c] + a * sin[c];
        }
    }

    void turn_back(const float *x, int place, float scale, float *to) const {  // adds
        const int half = size / 2;
        const float *cos = w.cos + long(place) * half, *sin = w.sin + long(place) * half;
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

struct Block {
    int first, last;        // queries
    int latest;             // where the recent keys begin of the query whose begin last
    int far_from, far_to;   // keys of the prompt that are seen from afar, in whole panels; none where equal
    int from, to;           // other keys, in whole panels
    int distant() const { return far_to - far_from; }
    int columns() const { return distant() + to - from; }
    int key(int column) const { return column < distant() ? far_from + column : from + column - distant(); }
};

// Calls `work` for each block of queries; none crosses an episode's end.
template <class T, class Work>
void blocks(const Head<T> &h, Work work) {
    for (int begin = 0, end; begin < h.n; begin = end) {
        end = begin;
        while (end < h.n && h.segment[end] == h.segment[begin]) end++;
        for (int first = begin; first < end; first += ROWS) {
            const int last = std::min(first + ROWS, end);
            int low = last, latest = 0, shown = h.n, shown_end = 0;
            for (int i = first; i < last; i++) {
                low = std::min(low, int(h.first[i])), latest = std::max(latest, int(h.first[i]));
                if (h.prefix_first[i] < h.prefix_end[i])
                    shown = std::min(shown, int(h.prefix_first[i])), shown_end = std::max(shown_end, int(h.prefix_end[i]));
            }
            Block b{first, last, latest, 0, 0, low / PANEL * PANEL, (last + PANEL - 1) / PANEL * PANEL};
            if (shown < shown_end) b.far_from = shown / PANEL * PANEL, b.far_to = (shown_end + PANEL - 1) / PANEL * PANEL;
            work(b);
        }
    }
}

// Makes scores MASKED where a key is not seen: those of a panel of keys, for all queries of a block.
template <class T>
void hide(const Head<T> &h, const Block &b, int key, bool distant, float *s, long lds) {
    Integers num_envs;
    for (int j = 0; j < WIDE; j++) num_envs[j] = j;
    for (int i = b.first; i < b.last; i++, s += lds) {
        const int from = distant ? h.prefix_first[i] : h.first[i], end = distant ? h.prefix_end[i] : i + 1;
        for (int j = 0; j < PANEL; j += WIDE) {
            const Integers at = num_envs + (key + j);
            Integers until;
            std::memcpy(&until, &h.until[key + j], sizeof until);
            const Integers seen = (at >= from) & (at < end) & (until >= i);
            store(s + j, seen ? load(s + j) : Vector{} + MASKED);
        }
    }
}

// Scores of a block's queries with its keys; columns of distant keys come first.
template <class T, class E>
void score(const Head<T> &h, const Block &b, const E *q, const E *far, float *s) {
    const int columns = b.columns(), terms = h.size / HELD<E>;
    for (int at = 0; at < columns; at += PANEL) {
        const bool distant = at < b.distant();
        const int key = b.key(at);
        scores(distant ? far : q, terms, &h.k_panels[long(key) * terms], s + at, columns);
        bool whole = !distant && key >= b.latest && key + PANEL <= b.first + 1;
        for (int j = 0; whole && j < PANEL; j++) whole = h.until[key + j] >= b.last - 1;
        if (!whole) hide(h, b, key, distant, s + at, columns);
    }
}

// A block's rows, zeros after the last.
struct Rows {
    std::vector<float> x;
    explicit Rows(int size) : x(ROWS * size) {}
    template <class T> const float *copy(const T *from, long stride, int rows, int size) {
        std::fill(x.begin(), x.end(), 0.0f);
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < size; c++) x[i * size + c] = get(from + i * stride + c);
        return x.data();
    }
};

template <class T>
void forward(const Windows &w, int env, int head, const T *qkv, T *y, float *sums) {
    typedef typename Kind<T>::Type E;
    const Head<T> h(w, env, head, qkv, false);
    const int size = w.size, terms = size / HELD<E>;
    const long row = long(w.heads) * size;
    sums += (long(env) * w.heads + head) * w.length;
    y += env * w.length * row + head * size;
    std::vector<float> s(long(ROWS) * 2 * h.padded), out(ROWS * size);
    std::vector<E> q_space, far_space, s_space;
    Rows q_rows(size), far_rows(size);
    blocks(h, [&](const Block &b) {
        const int rows = b.last - b.first, columns = b.columns(), distant = b.distant();
        const E *q = along(q_rows.copy(&h.q[long(b.first) * size], size, rows, size), ROWS * size, q_space);
        const E *far = along(far_rows.copy(&h.far[long(b.first) * size], size, rows, size), ROWS * size, far_space);
        score(h, b, q, far, s.data());
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
        for (const bool away : {true, false}) {
            const int at = away ? 0 : distant, keys = away ? distant : columns - distant, key = away ? b.far_from : b.from;
            if (keys) gather(p + at / HELD<E>, columns / HELD<E>, keys / HELD<E>, h.v_down + long(key) * terms, size, out.data());
        }
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < size; c++) put(y + (b.first + i) * row + c, out[i * size + c] / total[i]);
    });
}

template <class T>
void backward(const Windows &w, int env, int head, const T *qkv, const T *y, const float *sums, const T *dy, T *dqkv) {
    typedef typename Kind<T>::Type E;
    const Head<T> h(w, env, head, qkv, true);
    const int size = w.size, terms = size / HELD<E>;
    const long row = long(w.heads) * size;
    sums += (long(env) * w.heads + head) * w.length;
    y += env * w.length * row + head * size, dy += env * w.length * row + head * size;
    dqkv += env * w.length * 3 * row + head * size;
    const float scale = 1 / std::sqrt(float(size));
    std::vector<float> s(long(ROWS) * 2 * h.padded), d(s.size()), dq(ROWS * size), dk(h.k.size()), dv(dk.size()), turned(size);
    std::vector<E> space[8];
    Rows q_rows(size), far_rows(size), g_rows(size);
    blocks(h, [&](const Block &b) {
        const int rows = b.last - b.first, columns = b.columns(), distant = b.distant();
        const float *q = q_rows.copy(&h.q[long(b.first) * size], size, rows, size);
        const float *far = far_rows.copy(&h.far[long(b.first) * size], size, rows, size);
        const float *g = g_rows.copy(dy + b.first * row, row, rows, size);
        score(h, b, along(q, ROWS * size, space[0]), along(far, ROWS * size, space[1]), s.data());
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
        for (const bool away : {true, false}) {
            const int at = away ? 0 : distant, keys = away ? distant : columns - distant, key = away ? b.far_from : b.from;
            if (!keys) continue;
            scatter(p_down + at, columns, keys, ROWS / HELD<E>, g_down, size, &dv[long(key) * size]);
            const E *q_down = down(away ? far : q, ROWS, size, space[7]);
            scatter(d_down + at, columns, keys, ROWS / HELD<E>, q_down, size, &dk[long(key) * size]);
            std::fill(dq.begin(), dq.end(), 0.0f);
            gather(d_along + at / HELD<E>, columns / HELD<E>, keys / HELD<E>, h.k_down + long(key) * terms, size, dq.data());
            for (int i = 0; i < rows; i++) {
                const int place = h.index[b.first + i];
                T *to = dqkv + (b.first + i) * 3 * row;
                for (int c = 0; c < size; c++) turned[c] = get(to + c);
                h.turn_back(&dq[i * size], away ? std::min(place, w.context - 1) : place, scale, turned.data());
                for (int c = 0; c < size; c++) put(to + c, turned[c]);
            }
        }
    });
    for (int i = 0; i < w.length; i++) {
        std::fill(turned.begin(), turned.end(), 0.0f);
        h.turn_back(&dk[long(i) * size], h.index[i], 1, turned.data());
        T *to = dqkv + i * 3 * row + row;
        for (int c = 0; c < size; c++) put(to + c, turned[c]), put(to + row + c, dv[long(i) * size + c]);
    }
}

template <class Work>
void each_head(const Windows &w, Work work) {
#pragma omp parallel for num_threads(w.threads) if (w.threads > 1) schedule(dynamic)
    for (int i = 0; i < w.batch * w.heads; i++) work(i / w.heads, i % w.heads);
}

}  // namespace

extern "C" {

// qkv [batch][length][3][heads][size] -> y [batch][length][heads][size], sums [batch][heads][length]: log of the sum of
// exponentials. `half`: qkv and y are bfloat16.
void gato_attend(const Windows *w, int32_t half, const void *qkv, void *y, float *sums) {
    each_head(*w, [&](int env, int head) {
        if (half) forward(*w, env, head, (const bf16 *)qkv, (bf16 *)y, sums);
        else forward(*w, env, head, (const float *)qkv, (float *)y, sums);
    });
}

// Gradient dqkv from that of y.
void gato_attend_backward(
    const Windows *w, int32_t half, const void *qkv, const void *y, const float *sums, const void *dy, void *dqkv
) {
    each_head(*w, [&](int env, int head) {
        if (half) backward(*w, env, head, (const bf16 *)qkv, (const bf16 *)y, sums, (const bf16 *)dy, (bf16 *)dqkv);
        else backward(*w, env, head, (const float *)qkv, (const float *)y, sums, (const float *)dy, (float *)dqkv);
    });
}
}
