// One control step on a CPU, from observation tokens to the complete action, without returning to Python.
//
// Everything heavy is one product, y[M, N] = x[M, K] w: for weights, for keys and for values alike. What it streams is
// stored in panels of NR units, [N / (16 NR)][K][16 NR], so each byte is read once for up to six rows of x.
// Sums run over k in order whatever M is: a environment's numbers do not depend on how many others there are.

#include <iterator>
#include <type_traits>
#include <utility>
#include <vector>

#include "simd.h"

namespace {

constexpr int UNIT = 16, ROWS = 6, TERMS = 32;  // floats of a unit, rows of x of a product, terms of a partial sum
constexpr int VALUE = 16, STATE = 64, CHOSEN = 32;  // widths of a value in a value group, of an action token's state, of a chosen id
constexpr int GROUP = 32;                       // action tokens that one hidden state predicts
constexpr int64_t PAD = -1, PATCH = -2, VALUES = -3;  // tokens that are no ids
constexpr int64_t EMPTY = INT64_MIN / 2;            // position of a slot that holds no key

// M rows of x times C vectors of columns, in partial sums of TERMS, which round less than long ones. Rows of w are ldw apart.
template <int M, int C, class W>
inline void tile(const float *x, long ldx, int K, const W *w, long ldw, const float *scale, float *y, long ldy, bool add) {
    Vector total[M][C] = {};
    for (int begin = 0; begin < K; begin += TERMS) {
        Vector sum[M][C] = {};
        for (int k = begin; k < std::min(begin + TERMS, K); k++) {
            Vector v[C];
            for (int j = 0; j < C; j++) v[j] = load(w + k * ldw + j * WIDE);
            for (int i = 0; i < M; i++)
                for (int j = 0; j < C; j++) sum[i][j] += x[i * ldx + k] * v[j];
        }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < C; j++) total[i][j] += sum[i][j];
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < C; j++) {
            float *to = y + i * ldy + j * WIDE;
            const Vector before = add ? load(to) : Vector{};  // one expression, rounded alike for every M
            const Vector sum = scale ? total[i][j] * load(scale + j * WIDE) + before : total[i][j] + before;
            store(to, sum);
        }
}

// M rows (at most ROWS) of x times N floats of columns: as many vectors at a time as have room for their sums.
template <int M, int N, class W>
inline void kernel(const float *x, long ldx, int K, const W *w, long ldw, const float *scale, float *y, long ldy,
                   bool add) {
    constexpr int V = N / WIDE, C = M * V <= SUMS ? V : M * 4 <= SUMS && V % 4 == 0 ? 4 : 2;
    for (int at = 0; at < N; at += C * WIDE)
        tile<M, C>(x, ldx, K, w + at, ldw, scale ? scale + at : nullptr, y + at, ldy, add);
}

// All M rows of x, ROWS at a time, times N floats of columns.
template <int N, class W>
void rows(const float *x, long ldx, int M, int K, const W *w, long ldw, const float *scale, float *y, long ldy,
          bool add) {
    for (; M >= ROWS; M -= ROWS, x += ROWS * ldx, y += ROWS * ldy) kernel<ROWS, N>(x, ldx, K, w, ldw, scale, y, ldy, add);
    switch (M) {
        case 5: return kernel<5, N>(x, ldx, K, w, ldw, scale, y, ldy, add);
        case 4: return kernel<4, N>(x, ldx, K, w, ldw, scale, y, ldy, add);
        case 3: return kernel<3, N>(x, ldx, K, w, ldw, scale, y, ldy, add);
        case 2: return kernel<2, N>(x, ldx, K, w, ldw, scale, y, ldy, add);
        case 1: return kernel<1, N>(x, ldx, K, w, ldw, scale, y, ldy, add);
    }
}

// All M rows of x times NR units of a panel. For many rows the panel is made floats, once for all of them, in slices
// that are as wide as a tile: read with gaps between, they have no place in the first cache.
template <class W, int NR>
void units(const float *x, long ldx, int M, int K, const W *w, long ldw, const float *scale, float *y, long ldy,
           bool add) {
    constexpr int N = NR * UNIT, SLICE = std::min(N, SUMS / ROWS * WIDE);
    constexpr bool FLOATS = std::is_same<W, float>::value;
    if (M <= (FLOATS ? 4 : 2) * ROWS || (FLOATS && SLICE == N)) return rows<N>(x, ldx, M, K, w, ldw, scale, y, ldy, add);
    thread_local std::vector<float> slices;
    slices.resize(long(K) * N);
    for (int k = 0; k < K; k++)
        for (int at = 0; at < N; at += WIDE) {
            const Vector v = load(w + k * ldw + at);
            std::memcpy(&slices[long(at / SLICE * K + k) * SLICE + at % SLICE], &v, sizeof v);
        }
    for (int at = 0; at < N; at += SLICE)
        rows<SLICE>(x, ldx, M, K, &slices[long(at) * K], SLICE, scale ? scale + at : nullptr, y + at, ldy, add);
}

template <class W>
void panel(int NR, const float *x, long ldx, int M, int K, const W *w, long ldw, const float *scale, float *y, long ldy,
           bool add) {
    switch (NR) {
        case 1: return units<W, 1>(x, ldx, M, K, w, ldw, scale, y, ldy, add);
        case 2: return units<W, 2>(x, ldx, M, K, w, ldw, scale, y, ldy, add);
        case 3: return units<W, 3>(x, ldx, M, K, w, ldw, scale, y, ldy, add);
        default: return units<W, 4>(x, ldx, M, K, w, ldw, scale, y, ldy, add);
    }
}

void layer_norm(const float *x, const float *weight, const float *bias, int width, float *y) {
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < width; i++) sum += x[i];
    const float mean = sum / width;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt(squares / width + 1e-5f);
    for (int i = 0; i < width; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

}  // namespace

extern "C" {

struct Matrix {  // packed in panels of PANEL; scale is one per output, or null
    const void *w;
    const float *scale;
};

struct Layer {
    const float *norm1, *bias1, *norm2, *bias2;
    Matrix qkv, out, hidden, down;
};

struct Model {
    int32_t layers, heads, width, feed_forward, context, kind;  // kind of weights and cache: 0 float32, 1 bfloat16, 2 int8
    int32_t values_per_token, decoder;  // values of a value group; whether an action decoder decodes, else action tokens are tokens of the stream
    int32_t rewound, first_id;  // tokens that a step takes out of the ring again; id of the action decoder's first row
    const Layer *layer;
    const float *norm, *bias, *table, *local, *values;  // table [ids][width], local [positions][width], values [1 + ids of values][VALUE]
    const float *chosen;  // [ids from first_id][CHOSEN]
    Matrix mix;    // of a value group's values, values_per_token VALUE -> width
    Matrix carry;  // of what was read of a group of action tokens, STATE -> STATE
};

// keys [layer][env][head][slots / 64][size][64], values [layer][env][head][size / 16 NR][slots][16 NR]; the first
// `rolling` slots are overwritten again and again, the others hold prompts of `prompt` tokens, which stay.
struct Ring {
    int32_t num_envs, slots, rolling, prompt, threads;
    void *keys, *values;
    int64_t *index, *next_position;  // [env][slots], [env]: position of each slot's key, and of the next token
};

struct Choice {  // one action token: its legal ids, and what scores them
    int32_t low, count, ordered;  // ordered: greedy is not the likeliest, but the median
    Matrix marginal, state, out, read;  // of the action decoder: width -> STATE, the same, STATE -> STATE, CHOSEN -> STATE
    Matrix head;    // of the legal rows of the table
    float *logits;  // [env][count rounded up to PANEL], written
};

struct Request {  // a step of all num_envs; or, without choices, the pass over the prompt of one
    int32_t env, count, actions, marginal, allowed_stride;  // marginal: without regard to the tokens before
    const int64_t *tokens, *local;  // [env][count]
    const float *patches;           // vectors, one a PATCH
    const int16_t *value_groups;           // [value_groups][values_per_token]
    const Choice *choices;          // [actions]
    const double *uniforms;         // [env][actions] in [0, 1), or null for greedy
    const int64_t *forced;          // [env][actions], or null
    const uint8_t *allowed;         // [env][allowed_stride], of all legal ids of all action tokens; or null
    double inverse_temperature;
    int64_t *chosen;                // [env][actions], written
};
}

namespace {

struct Span { int slot, count; };  // slots side by side in one panel, in whole units

struct Scratch {  // kept from step to step, so that after the first ones nothing is allocated
    std::vector<float> x, y, wide, bias, cos, sin, far, far_cos, far_sin;  // far: queries as pinned keys see them
    std::vector<float> read, mixed, shares;  // values of value_groups side by side, value_groups as tokens; shares of an action token's ids
    std::vector<float> score, state, chain, taken;  // of an action token: what scores it, hidden units, what was read before, embedded ids
    std::vector<int64_t> position;  // of the pass's first token, by env
    std::vector<double> speed;  // radians a token of each pair of dimensions
    std::vector<Span> live;     // slots that somebody sees, of all num_envs
    std::vector<int> begins;    // where each environment's begin among them, and the end
    std::vector<int64_t> last;  // tokens chosen last
};

template <class W, class C>
struct Step : Scratch {
    const Model &m;
    Ring &ring;
    const int D = m.width, H = m.heads, S = D / H, NR = std::min(S, PANEL) / UNIT;
    const int base, num_envs;  // which of the ring's num_envs
    const bool pinning, parallel;  // whether it reads a prompt, and with all of the ring's threads
    int n = 0, wanted = 1;  // tokens of a pass, and how many of the last ones are asked for their states

    Step(const Model &model, Ring &r, int first, int count, bool pins, bool shared, Scratch &&kept)
        : Scratch(std::move(kept)), m(model), ring(r), base(first), num_envs(count), pinning(pins), parallel(shared) {
        speed.resize(S / 2);
        for (int j = 0; j < S / 2; j++) speed[j] = std::pow(10000.0, -2.0 * j / S);
    }

    // The first K inputs of M rows, `stride` apart, times a matrix of `depth` inputs.
    void product(const float *in, int M, int K, const Matrix &w, int N, float *to, bool add, long stride = 0, int depth = 0) {
        const W *weights = static_cast<const W *>(w.w);
        const int panels = (N + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(ring.threads) if (parallel && panels > 1)
        for (int p = 0; p < panels; p++)
            panel(4, in, stride ? stride : K, M, K, weights + long(p) * std::max(K, depth) * PANEL, PANEL,
                  w.scale ? w.scale + p * PANEL : nullptr, to + p * PANEL, long(panels) * PANEL, add);
    }

    // Make room for n tokens a env: their indices, angles, and who sees whom.
    void advance(const int64_t *tokens, int count) {
        n = count;
        const int slots = ring.slots, half = S / 2;
        bias.resize(long(num_envs) * n * slots), cos.resize(long(num_envs) * n * half), sin.resize(cos.size());
        if (ring.prompt) far.resize(long(num_envs) * n * D), far_cos.resize(cos.size()), far_sin.resize(cos.size());
        live.clear(), begins.assign(1, 0), position.resize(num_envs);
        const int64_t reach = pinning ? 0 : m.context - ring.prompt;
        for (int env = 0; env < num_envs; env++) {
            int64_t *index = ring.index + long(base + env) * slots;
            const int64_t next_position = position[env] = pinning ? 0 : ring.next_position[base + env];
            for (int t = 0; t < n; t++) index[slot(env, t)] = tokens[env * n + t] == PAD ? EMPTY : next_position + t;
            for (int t = 0; t < n; t++) {
                const int64_t query = next_position + t;
                float *row = &bias[(long(env) * n + t) * slots];
                for (int s = 0; s < ring.rolling; s++) {
                    const int64_t distance = query - index[s];
                    row[s] = (distance >= 0) & (distance < reach) ? 0.0f : MASKED;
                }
                for (int s = ring.rolling; s < slots; s++) row[s] = (index[s] >= 0) & (index[s] <= query) ? 0.0f : MASKED;
                row[slot(env, t)] = 0.0f;  // a PAD sees itself
                turn(query, &cos[(long(env) * n + t) * half], &sin[(long(env) * n + t) * half]);
                if (ring.prompt)
                    turn(std::min<int64_t>(query, m.context - 1), &far_cos[(long(env) * n + t) * half],
                         &far_sin[(long(env) * n + t) * half]);
            }
            look(&bias[long(env) * n * slots]);
            begins.push_back(int(live.size()));
            if (!pinning) ring.next_position[base + env] += n;
        }
    }

    // Of each panel the slots from the first to the last unit in which one of a environment's tokens sees something.
    void look(const float *rows) {
        for (int panel = 0; panel < ring.slots; panel += PANEL) {
            int first = PANEL, end = 0;
            for (int s = 0; s < PANEL; s += UNIT) {
                int seen = 0;
                for (int t = 0; t < n; t++)
                    for (int i = 0; i < UNIT; i++) seen |= rows[long(t) * ring.slots + panel + s + i] == 0.0f;
                if (seen) first = std::min(first, s), end = s + UNIT;
            }
            if (end) live.push_back({panel + first, end - first});
        }
    }

    void turn(int64_t index, float *c, float *s) const {
        for (int j = 0; j < S / 2; j++) {
            const double angle = double(index) * speed[j];
            c[j] = float(std::cos(angle)), s[j] = float(std::sin(angle));
        }
    }

    // A token's slot follows from its position, which is at least -1: an episode's sums are in the same order always.
    int slot(int env, int t) const { return pinning ? ring.rolling + t : int((position[env] + t + 1) % ring.rolling); }

    void rewind(int count) {  // the last tokens of every env are taken out of the ring
        for (int env = 0; env < num_envs; env++) {
            int64_t &next = ring.next_position[base + env];
            next -= count;
            for (int t = 0; t < count; t++)
                ring.index[long(base + env) * ring.slots + (next + t + 1) % ring.rolling] = EMPTY;
        }
    }

    long head_of(int layer, int env, int head) const {  // where a head's keys and values begin
        return ((long(layer) * ring.num_envs + base + env) * H + head) * ring.slots * S;
    }

    // Rotate a head's queries and keys in place and put keys and values into the ring.
    void remember(int layer, int env, int head, float *qkv) {
        const int slots = ring.slots, half = S / 2;
        C *keys = static_cast<C *>(ring.keys) + head_of(layer, env, head);
        C *values = static_cast<C *>(ring.values) + head_of(layer, env, head);
        const float scale = 1.0f / std::sqrt(float(S));
        for (int t = 0; t < n; t++) {
            float *q = qkv + t * 3L * D + head * S, *k = q + D, *v = k + D;
            const float *c = &cos[(long(env) * n + t) * half], *s = &sin[(long(env) * n + t) * half];
            if (ring.prompt) {
                float *to = &far[(long(env) * n + t) * D + head * S];
                const float *a = &far_cos[(long(env) * n + t) * half], *b = &far_sin[(long(env) * n + t) * half];
                for (int j = 0; j < half; j++) {
                    to[j] = (q[j] * a[j] - q[j + half] * b[j]) * scale;
                    to[j + half] = (q[j + half] * a[j] + q[j] * b[j]) * scale;
                }
            }
            for (int j = 0; j < half; j++) {
                const float q1 = q[j], q2 = q[j + half], k1 = k[j], k2 = k[j + half];
                q[j] = (q1 * c[j] - q2 * s[j]) * scale, q[j + half] = (q2 * c[j] + q1 * s[j]) * scale;
                k[j] = k1 * c[j] - k2 * s[j], k[j + half] = k2 * c[j] + k1 * s[j];
            }
            const int at = slot(env, t), block = NR * UNIT;
            for (int j = 0; j < S; j++) {
                put(keys + (long(at / PANEL) * S + j) * PANEL + at % PANEL, k[j]);
                put(values + (long(j / block) * slots + at) * block + j % block, v[j]);
            }
        }
    }

    // Attention of one head's queries from `first` on, over the panels of slots that hold something to see.
    void attend(int layer, int env, int head, const float *qkv, int first, float *to) {
        const int slots = ring.slots, rows = n - first, block = NR * UNIT;
        const Span *begin = &live[begins[env]], *end = &live[begins[env + 1]];
        int used = 0;
        for (const Span *a = begin; a < end; a++) used += a->count;
        const C *keys = static_cast<C *>(ring.keys) + head_of(layer, env, head);
        const C *values = static_cast<C *>(ring.values) + head_of(layer, env, head);
        const float *q = qkv + first * 3L * D + head * S;
        const float *clamped = ring.prompt ? &far[(long(env) * n + first) * D + head * S] : nullptr;
        thread_local std::vector<float> weight, whole;
        weight.resize(long(rows) * used), whole.resize(rows);
        float *w = weight.data();
        for (const Span *a = begin; a < end; w += a->count, a++) {
            const bool pinned = a->slot >= ring.rolling;
            panel(a->count / UNIT, pinned ? clamped : q, pinned ? D : 3L * D, rows, S,
                  keys + long(a->slot / PANEL) * S * PANEL + a->slot % PANEL, PANEL, nullptr, w, used, false);
        }
        for (int t = 0; t < rows; t++) {
            const float *b = &bias[(long(env) * n + first + t) * slots];
            float top = MASKED, total = 0;
            w = &weight[long(t) * used];
            for (const Span *a = begin; a < end; w += a->count, a++)
                for (int s = 0; s < a->count; s++) w[s] += b[a->slot + s];
            w = &weight[long(t) * used];
#pragma omp simd reduction(max : top)
            for (int s = 0; s < used; s++) top = w[s] > top ? w[s] : top;
#pragma omp simd reduction(+ : total)
            for (int s = 0; s < used; s++) total += w[s] = exp_nonpositive(w[s] - top);
            whole[t] = 1.0f / total;
        }
        w = weight.data();
        for (const Span *a = begin; a < end; w += a->count, a++)
            for (int j = 0; j < S; j += block)
                panel(NR, w, used, rows, a->count, values + (long(j / block) * slots + a->slot) * block, block, nullptr,
                      to + head * S + j, D, a > begin);
        for (int t = 0; t < rows; t++)
            for (int j = 0; j < S; j++) to[t * D + head * S + j] *= whole[t];
    }

    void norms(const float *weight, const float *shift, int rows) {
#pragma omp parallel for num_threads(ring.threads) if (parallel)
        for (int r = 0; r < rows; r++) layer_norm(&x[long(r) * D], weight, shift, D, &y[long(r) * D]);
    }

    // The transformer over x [env][n][width]; afterwards y [env][wanted][width] has the normed states of each environment's last tokens.
    void pass(const int64_t *tokens, int count) {
        advance(tokens, count);
        const int F = m.feed_forward, tall = num_envs * n;
        y.resize(long(tall) * std::max(D, F / 2)), wide.resize(long(tall) * std::max(3 * D, F));
        int rows = n;
        for (int l = 0; l < m.layers; l++) {
            const Layer &layer = m.layer[l];
            norms(layer.norm1, layer.bias1, tall);
            product(y.data(), tall, D, layer.qkv, 3 * D, wide.data(), false);
            const int first = l + 1 < m.layers ? 0 : n - wanted;  // of the last layer only the last tokens are wanted
            rows = n - first;
#pragma omp parallel for collapse(2) num_threads(ring.threads) if (parallel)
            for (int env = 0; env < num_envs; env++)
                for (int head = 0; head < H; head++) {
                    float *qkv = &wide[long(env) * n * 3 * D];
                    remember(l, env, head, qkv);
                    attend(l, env, head, qkv, first, &y[long(env) * rows * D]);
                }
            if (first)
                for (int env = 0; env < num_envs; env++)
                    std::memmove(&x[long(env) * rows * D], &x[(long(env) * n + first) * D], rows * D * sizeof(float));
            const int M = num_envs * rows;
            product(y.data(), M, D, layer.out, D, x.data(), true);
            norms(layer.norm2, layer.bias2, M);
            product(y.data(), M, D, layer.hidden, F, wide.data(), false);
#pragma omp parallel for num_threads(ring.threads) if (parallel)
            for (int r = 0; r < M; r++)
                for (int j = 0; j < F / 2; j++)
                    y[long(r) * (F / 2) + j] = wide[long(r) * F + j] * gelu(wide[long(r) * F + F / 2 + j]);
            product(y.data(), M, F / 2, layer.down, D, x.data(), true);
        }
        norms(m.norm, m.bias, num_envs * wanted);
    }

    // Packs as tokens, `mixed`: their values side by side, as far as there are any, through one matrix.
    void mix(const int16_t *value_groups, int count) {
        int used = 1;
        for (int p = 0; p < count; p++)
            for (int i = used; i < m.values_per_token; i++)
                if (value_groups[long(p) * m.values_per_token + i] != -1) used = i + 1;
        read.resize(long(count) * used * VALUE), mixed.resize(long(count) * D);
        for (int p = 0; p < count; p++)
            for (int i = 0; i < used; i++)
                std::memcpy(&read[(long(p) * used + i) * VALUE], m.values + (value_groups[long(p) * m.values_per_token + i] + 1L) * VALUE,
                            VALUE * sizeof(float));
        product(read.data(), count, used * VALUE, m.mix, D, mixed.data(), false, 0, m.values_per_token * VALUE);
    }

    void embed(const int64_t *tokens, const int64_t *local, const float *patches, int count) {
        x.resize(long(num_envs) * count * D);
        const float *packed = mixed.data();
        for (long r = 0; r < long(num_envs) * count; r++) {
            float *to = &x[r * D];
            if (tokens[r] == PATCH && patches) std::memcpy(to, patches, D * sizeof(float)), patches += D;
            else if (tokens[r] == VALUES && m.values) std::memcpy(to, packed, D * sizeof(float)), packed += D;
            else std::memcpy(to, m.table + std::max<int64_t>(tokens[r], 0) * D, D * sizeof(float));
            const int64_t place = local ? local[r] : -1;
            for (int j = 0; place >= 0 && j < D; j++) to[j] += m.local[place * D + j];
        }
    }

    // The first allowed id with more than `share` of the probability up to it, or at least half of it for the median.
    int cut(const float *logits, int count, const uint8_t *allowed, float inverse_temperature, double share, bool median) {
        shares.resize(count);
        float top = -INFINITY;
        double total = 0, before = 0;
        for (int i = 0; i < count; i++) shares[i] = allowed && !allowed[i] ? MASKED : logits[i];
        for (int i = 0; i < count; i++) top = std::max(top, shares[i]);
        for (int i = 0; i < count; i++) shares[i] = exp_nonpositive((shares[i] - top) * inverse_temperature);
        for (int i = 0; allowed && i < count; i++) shares[i] = allowed[i] ? shares[i] : 0.0f;
        for (int i = 0; i < count; i++) total += shares[i];
        int last = 0;
        for (int i = 0; i < count; i++) {
            if (shares[i] <= 0) continue;
            before += shares[i], last = i;
            if (median ? before >= share * total : before > share * total) break;
        }
        return last;
    }

    int likeliest(const float *logits, int count, const uint8_t *allowed) const {
        int at = -1;
        for (int i = 0; i < count; i++)
            if ((!allowed || allowed[i]) && (at < 0 || logits[i] > logits[at])) at = i;
        return at;
    }

    // Action token `a` of each env, from the state of the wanted token `slot`; `offset` is that of its ids in a mask.
    void choose(const Request &r, int a, int slot, int offset) {
        const Choice &c = r.choices[a];
        const float *from = &y[long(slot) * D];
        const long row = (c.count + PANEL - 1) / PANEL * PANEL;
        float *scores = c.logits + base * row;
        if (m.decoder) {
            score.resize(long(num_envs) * STATE), state.resize(score.size());
            product(from, num_envs, D, c.marginal, STATE, score.data(), false, long(wanted) * D);
            if (a && !r.marginal) {
                product(from, num_envs, D, c.state, STATE, state.data(), false, long(wanted) * D);
                for (size_t i = 0; i < state.size(); i++) state[i] = gelu(state[i] + chain[i]);
                product(state.data(), num_envs, STATE, c.out, STATE, score.data(), true);
            }
            product(score.data(), num_envs, STATE, c.head, c.count, scores, false);
        } else product(from, num_envs, D, c.head, c.count, scores, false, long(wanted) * D);
        for (int env = 0; env < num_envs; env++) {
            const float *logits = scores + env * row;
            const long at = long(base + env) * r.actions + a;
            const uint8_t *allowed = r.allowed ? r.allowed + long(base + env) * r.allowed_stride + offset : nullptr;
            if (r.forced) r.chosen[at] = r.forced[at];
            else if (r.uniforms) r.chosen[at] = c.low + cut(logits, c.count, allowed, float(r.inverse_temperature), r.uniforms[at], false);
            else if (c.ordered) r.chosen[at] = c.low + cut(logits, c.count, allowed, 1, 0.5, true);
            else r.chosen[at] = c.low + likeliest(logits, c.count, allowed);
        }
        if (m.decoder && !r.marginal && a + 1 < r.actions) extend(r, a);
    }

    // Read the chosen ids of action token `a` for those after it.
    void extend(const Request &r, int a) {
        taken.resize(long(num_envs) * CHOSEN);
        if (!a) chain.assign(long(num_envs) * STATE, 0.0f);
        for (int env = 0; env < num_envs; env++)
            std::memcpy(&taken[long(env) * CHOSEN], m.chosen + (r.chosen[long(base + env) * r.actions + a] - m.first_id) * CHOSEN,
                        CHOSEN * sizeof(float));
        product(taken.data(), num_envs, CHOSEN, r.choices[a].read, STATE, chain.data(), true);
        if (a % GROUP == GROUP - 1) {
            state = chain;
            product(state.data(), num_envs, STATE, m.carry, STATE, chain.data(), false);
        }
    }
};

template <class W, class C>
void step(const Model &m, Ring &ring, const Request &r) {
    const bool pinning = r.env >= 0;
    const int num_envs = pinning ? 1 : ring.num_envs;
    // Of few num_envs the threads share each product; of many each has its own, and they meet only at the end.
    const int parts = num_envs >= ROWS * ring.threads ? ring.threads : 1;
    const auto work = [&](int part) {
        thread_local Scratch kept;
        const int first = num_envs * part / parts, own = num_envs * (part + 1) / parts - first;
        Step<W, C> run(m, ring, pinning ? r.env : first, own, pinning, ring.threads > parts, std::move(kept));
        run.wanted = m.decoder && r.actions ? (r.actions + GROUP - 1) / GROUP : 1;
        const int64_t *read = r.tokens + long(first) * r.count, *end = read + long(own) * r.count;
        if (r.value_groups) run.mix(r.value_groups + std::count(r.tokens, read, VALUES) * m.values_per_token, std::count(read, end, VALUES));
        const float *seen = r.patches ? r.patches + std::count(r.tokens, read, PATCH) * m.width : nullptr;
        run.embed(read, r.local + long(first) * r.count, seen, r.count);
        run.pass(read, r.count);
        for (int a = 0, offset = 0; a < r.actions; offset += r.choices[a++].count) {
            if (a && !m.decoder) {
                run.last.resize(own);
                for (int i = 0; i < own; i++) run.last[i] = r.chosen[long(first + i) * r.actions + a - 1];
                run.embed(run.last.data(), nullptr, nullptr, 1);
                run.pass(run.last.data(), 1);
            }
            run.choose(r, a, m.decoder ? a / GROUP : 0, offset);
        }
        if (!pinning) run.rewind(m.rewound);
        kept = std::move(run);
    };
    if (parts == 1) work(0);  // outside of any team, in which the products' teams would be new ones each time
    else {
#pragma omp parallel for num_threads(parts)
        for (int part = 0; part < parts; part++) work(part);
    }
}

}  // namespace

// A control step of all num_envs, whose action tokens are decoded one after the other, each fed back before the next; or,
// with a env and no actions, the pass over that environment's prompt.
extern "C" void gato_step(const Model *m, Ring *ring, const Request *request) {
    const auto run = m->kind == 0 ? step<float, float> : m->kind == 1 ? step<bf16, bf16> : step<int8_t, bf16>;
    run(*m, *ring, *request);
}

// Sizes of the structs in bytes, by which a caller tells that it means the same.
extern "C" void gato_sizes(int32_t *sizes) {
    const int32_t found[] = {sizeof(Matrix), sizeof(Layer), sizeof(Model), sizeof(Ring), sizeof(Choice), sizeof(Request)};
    std::copy(std::begin(found), std::end(found), sizes);
}
