// One control step on a CPU, from observation tokens to the complete action, without returning to Python.
//
// All heavy work is one product, y[M, N] = x[M, K] w: weights, keys and values alike. w is stored in panels of NR units,
// [N / (16 NR)][K][16 NR], so that each byte is read once for up to six rows of x. Sums run over k in order whatever M
// is: an environment's numbers do not depend on the number of environments.

#include <type_traits>
#include <utility>
#include <vector>

#include "simd.h"

#define GATO_ERRORS(X)                                                                                  \
    X(BAD_MODEL, "the model's shape is not one that the CPU decoder can run")                           \
    X(BAD_CACHE, "the sizes of the cache do not fit the model")                                         \
    X(BAD_POINTER, "an array that the request needs is missing")                                        \
    X(BAD_ENVS, "envs must be environments of the cache, each once and in rising order")                \
    X(BAD_COUNT, "the count of tokens does not fit the cache and the action")                           \
    X(BAD_PREFIX, "the count of tokens is not the prefix length that the cache was prepared for")       \
    X(BAD_ACTIONS, "the number of action tokens is not one that the model decodes")                     \
    X(BAD_POSITION, "the next position of an environment is out of range")                              \
    X(BAD_TOKEN, "token ids must be in the vocabulary, or PAD, PATCH or VALUES")                        \
    X(BAD_LOCAL, "local positions must be below those that the model has")                              \
    X(BAD_PATCHES, "the number of patches is not that of PATCH tokens")                                 \
    X(BAD_VALUE_GROUPS, "the number of value_groups is not that of VALUES tokens")                      \
    X(BAD_VALUE, "value ids of value_groups must be PAD or ids of bins and choices")                    \
    X(BAD_LEGAL, "the legal ids of an action token are not in the vocabulary")                          \
    X(BAD_FORCED, "forced action tokens must be among the ids that are legal for each")                 \
    X(BAD_UNIFORM, "uniforms must be in [0, 1)")                                                        \
    X(BAD_TEMPERATURE, "the temperature must be positive")                                              \
    X(BAD_MASK_SIZE, "a mask of a step must have a block of bytes for each action token")               \
    X(BAD_MASK_EMPTY, "a mask of a step must allow an id in each row of each block")

#include "abi.h"

namespace {

constexpr int32_t ABI = 3;  // raised at every change of a struct's fields or of their meaning
constexpr int UNIT = 16, ROWS = 6, TERMS = 32;  // floats of a unit, rows of x of a product, terms of a partial sum
constexpr int VALUE = 16, STATE = 64, CHOSEN = 32;  // widths: value of a group, state of an action token, chosen id
constexpr int GROUP = 32;                           // action tokens that one hidden state predicts
constexpr int64_t PAD = -1, PATCH = -2, VALUES = -3;  // tokens that have no row in the table
constexpr int64_t EMPTY = INT64_MIN / 2;              // position of a slot that holds no key
constexpr int64_t LAST_POSITION = int64_t(1) << 52;   // up to which a double holds every position

// M rows of x times C vectors of columns, in partial sums of TERMS, which round less than long ones. Rows of w are ldw
// floats apart.
template <int M, int C, class W>
inline void tile(const float *x, long ldx, int K, const W *w, long ldw, const float *scale, float *y, long ldy,
                 bool add) {
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

// M rows (at most ROWS) of x times N columns: as many vectors at a time as registers hold sums.
template <int M, int N, class W>
inline void kernel(const float *x, long ldx, int K, const W *w, long ldw, const float *scale, float *y, long ldy,
                   bool add) {
    constexpr int V = N / WIDE, C = M * V <= SUMS ? V : M * 4 <= SUMS && V % 4 == 0 ? 4 : 2;
    for (int at = 0; at < N; at += C * WIDE)
        tile<M, C>(x, ldx, K, w + at, ldw, scale ? scale + at : nullptr, y + at, ldy, add);
}

// All M rows of x, ROWS at a time, times N columns.
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

// All M rows of x times NR units of a panel. For many rows the panel is converted to floats once, in slices as wide as
// a tile: contiguous slices fit into the first-level cache.
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

struct Matrix {  // packed in panels of PANEL outputs; scale is one per output, or null
    const void *w;
    const float *scale;
};

struct Layer {
    const float *norm1, *bias1, *norm2, *bias2;
    Matrix qkv, out, hidden, down;
};

struct Model {
    int32_t layers, heads, width, feed_forward, context;
    int32_t kind;              // of weights and cache: 0 float32, 1 bfloat16, 2 int8 with a cache of bfloat16
    int32_t values_per_token;  // of a value group
    int32_t decoder;           // 1: an action decoder decodes; 0: action tokens pass through the transformer
    int32_t rewound;           // tokens that a step takes out of the cache again
    int32_t first_id;          // id of the first row of `chosen`
    int32_t ids, positions, value_ids, chosen_ids, actions;  // rows of table, local, values less one, chosen; choices
    const Layer *layer;
    const float *norm, *bias, *table, *local, *values;  // [ids][width], [positions][width], [1 + value_ids][VALUE]
    const float *chosen;                                // [chosen_ids][CHOSEN]
    Matrix mix;    // values_per_token VALUE -> width, of a value group
    Matrix carry;  // STATE -> STATE, from one group of action tokens to the next
};

// keys [layer][env][head][slots / 64][size][64], values [layer][env][head][size / 16 NR][slots][16 NR]. The first
// `window` slots are a circular buffer of recent tokens, the others hold a prefix of `prefix` tokens.
struct Cache {
    int32_t num_envs, slots, window, prefix, threads;
    void *keys, *values;
    int64_t *index, *next_position;  // [env][slots], [env]: position of each slot's key, and of the next token
};

struct ActionToken {
    int32_t low, count, ordered;  // legal ids [low, low + count); ordered: greedy takes the median, else the likeliest
    int32_t digit;                // of one number: index of the digit; 0 for the first, and for other tokens
    Matrix marginal, state, out, read;  // action decoder: width -> STATE, width -> STATE, STATE -> STATE, CHOSEN -> STATE
    Matrix head;                        // legal rows of the table
    float *logits;                      // [env][count rounded up to PANEL], written
};

// A step of some environments, or with 0 actions the pass over their prefixes. Each has a row [env] in every array.
struct Request {
    int32_t num_envs, count, actions;
    int32_t marginal;                   // 1: score each action token without regard to those before it
    int32_t allowed_stride, patch_count, group_count;
    const int64_t *envs;                // [env], index in the cache
    const int64_t *tokens, *local;      // [env][count]
    const float *patches;               // [patch_count][width]
    const int16_t *value_groups;        // [group_count][values_per_token]
    const ActionToken *choices;         // [actions]
    const double *uniforms;             // [env][actions], or null for greedy
    const int64_t *forced;              // [env][actions], or null
    const uint8_t *allowed;             // [env][allowed_stride], a block for each action token; or null
    double inverse_temperature;
    int64_t *chosen;                    // [env][actions], written
};
}

namespace {

// The checks below cover every number that indexes memory, before anything is read or written by it.

Error check_model(const Model &m) {
    for (const int32_t x : {m.layers, m.heads, m.width, m.feed_forward, m.context, m.values_per_token, m.ids, m.positions})
        if (x < 1) return BAD_MODEL;
    if (m.width % m.heads || m.kind < 0 || m.kind > 2) return BAD_MODEL;
    const int size = m.width / m.heads;
    if (m.width % PANEL || m.feed_forward % (2 * PANEL) || size % UNIT || (size > PANEL && size % PANEL)) return BAD_MODEL;
    if (m.rewound < 0 || m.first_id < 0 || m.value_ids < 0 || m.chosen_ids < 0) return BAD_MODEL;
    if (!m.layer || !m.norm || !m.bias || !m.table || !m.local) return BAD_MODEL;
    return m.decoder && (!m.chosen || m.rewound) ? BAD_MODEL : NONE;
}

Error check_cache(const Model &m, const Cache &c) {
    if (c.num_envs < 1 || c.threads < 1 || c.threads > MOST_THREADS) return BAD_CACHE;
    if (c.window < 1 || c.prefix < 0 || c.prefix >= m.context) return BAD_CACHE;
    if (c.window % PANEL || c.slots % PANEL || c.slots < c.window || c.prefix > c.slots - c.window) return BAD_CACHE;
    return !c.keys || !c.values || !c.index || !c.next_position ? BAD_CACHE : NONE;
}

// Tokens of a step, or of prefixes, in a cache that was checked.
Error check_counts(const Model &m, const Cache &c, const Request &r) {
    if (r.count < 1) return BAD_COUNT;
    if (!r.tokens || !r.local || !r.envs) return BAD_POINTER;
    if (r.num_envs < 1 || r.num_envs > c.num_envs) return BAD_ENVS;
    for (int env = 0; env < r.num_envs; env++)
        if (r.envs[env] < (env ? r.envs[env - 1] + 1 : 0) || r.envs[env] >= c.num_envs) return BAD_ENVS;
    if (!r.actions) return r.count != c.prefix ? BAD_PREFIX : NONE;
    if (r.actions < 0 || r.actions > m.actions) return BAD_ACTIONS;
    if (!r.choices || !r.chosen) return BAD_POINTER;
    const int64_t longest = int64_t(c.window) - (m.context - c.prefix) + 1, written = int64_t(r.count) + r.actions - 1;
    if (r.count > longest || m.rewound > std::min(longest, written)) return BAD_COUNT;
    if (m.decoder && r.count < (int64_t(r.actions) + GROUP - 1) / GROUP) return BAD_COUNT;
    for (int env = 0; env < r.num_envs; env++)
        if (c.next_position[r.envs[env]] < -1 || c.next_position[r.envs[env]] > LAST_POSITION) return BAD_POSITION;
    return NONE;
}

Error check_tokens(const Model &m, const Request &r, long count) {
    long patches = 0, groups = 0;
    for (long i = 0; i < count; i++) {
        if (r.tokens[i] < VALUES || r.tokens[i] >= m.ids) return BAD_TOKEN;
        if (r.local[i] >= m.positions) return BAD_LOCAL;
        patches += r.tokens[i] == PATCH, groups += r.tokens[i] == VALUES;
    }
    if (patches != r.patch_count || (patches && !r.patches)) return BAD_PATCHES;
    if (groups != r.group_count || (groups && (!r.value_groups || !m.values))) return BAD_VALUE_GROUPS;
    for (long i = 0; i < groups * m.values_per_token; i++)
        if (r.value_groups[i] < PAD || r.value_groups[i] >= m.value_ids) return BAD_VALUE;
    return NONE;
}

// Bytes of action token `a` in a mask: a row of its ids for each choice of the digits before it. Beyond 2^31 too few.
int64_t block_size(const Request &r, int a) {
    int64_t size = r.choices[a].count;
    for (int before = a - r.choices[a].digit; before < a && size <= INT32_MAX; before++) size *= r.choices[before].count;
    return size;
}

Error check_choices(const Model &m, const Request &r) {
    if (r.uniforms && !(r.inverse_temperature > 0 && r.inverse_temperature < INFINITY)) return BAD_TEMPERATURE;
    int64_t offset = 0;
    for (int a = 0; a < r.actions; a++) {
        const ActionToken &c = r.choices[a];
        const int64_t end = int64_t(c.low) + c.count, first = m.decoder ? m.first_id : 0;
        if (c.count < 1 || c.low < first || end > m.ids || (m.decoder && end - first > m.chosen_ids)) return BAD_LEGAL;
        if (!c.logits) return BAD_POINTER;
        for (long at = a; at < long(r.num_envs) * r.actions; at += r.actions) {
            if (r.forced && (r.forced[at] < c.low || r.forced[at] >= end)) return BAD_FORCED;
            if (r.uniforms && !(r.uniforms[at] >= 0 && r.uniforms[at] < 1)) return BAD_UNIFORM;
        }
        if (c.digit < 0 || c.digit > a) return BAD_LEGAL;
        if (!r.allowed) continue;
        const int64_t size = block_size(r, a);
        if (size > r.allowed_stride - offset) return BAD_MASK_SIZE;
        for (long env = 0; env < r.num_envs; env++)
            for (int64_t row = 0; row < size; row += c.count) {
                const uint8_t *mask = r.allowed + env * r.allowed_stride + offset + row;
                if (std::none_of(mask, mask + c.count, [](uint8_t byte) { return byte; })) return BAD_MASK_EMPTY;
            }
        offset += size;
    }
    return NONE;
}

Error check(const Model &m, const Cache &c, const Request &r) {
    if (const Error error = check_model(m)) return error;
    if (const Error error = check_cache(m, c)) return error;
    if (const Error error = check_counts(m, c, r)) return error;
    if (const Error error = check_tokens(m, r, long(r.num_envs) * r.count)) return error;
    return check_choices(m, r);
}

struct Span { int slot, count; };  // neighbouring slots of one panel, in inverse_sum units

struct Workspace {  // kept from step to step: steps after the first few allocate nothing
    std::vector<float> x, y, wide, bias, cos, sin;
    std::vector<float> prefix_query, prefix_cos, prefix_sin;  // queries as keys of the prefix see them, and their angles
    std::vector<float> group_values, group_embeddings;        // value groups: values side by side, and embedded
    std::vector<float> weights;                               // of the ids of an action token
    std::vector<float> score, state, chain, chosen_rows;      // of an action token; chain: sum over those before it
    std::vector<int64_t> position;   // [env], of the forward's first token
    std::vector<double> frequency;   // radians per position of each pair of dimensions
    std::vector<Span> visible;       // slots that some query attends to, of all environments
    std::vector<int> visible_begin;  // [env + 1], where each environment's spans begin
    std::vector<int64_t> previous;   // action tokens chosen last
};

template <class W, class C>
struct Step : Workspace {
    const Model &m;
    Cache &cache;
    const int D = m.width, H = m.heads, S = D / H, NR = std::min(S, PANEL) / UNIT;
    const int base, num_envs;        // rows [base, base + num_envs) of the request
    const int64_t *const envs;       // [num_envs], their environments in the cache
    const bool is_prefix, parallel;  // the tokens are a prefix; products use all threads of the cache
    int n = 0, predictors = 1;       // tokens per environment of a pass, and the last of them, whose states are computed

    Step(const Model &model, Cache &cache, const Request &r, int first, int count, bool parallel, Workspace &&kept)
        : Workspace(std::move(kept)), m(model), cache(cache), base(first), num_envs(count), envs(r.envs + first),
          is_prefix(!r.actions), parallel(parallel) {
        frequency.resize(S / 2);
        for (int j = 0; j < S / 2; j++) frequency[j] = std::pow(10000.0, -2.0 * j / S);
    }

    // The first K inputs of M rows, `stride` apart, times a matrix of `depth` inputs.
    void product(const float *in, int M, int K, const Matrix &w, int N, float *to, bool add, long stride = 0, int depth = 0) {
        const W *packed = static_cast<const W *>(w.w);
        const int panels = (N + PANEL - 1) / PANEL;
#pragma omp parallel for num_threads(cache.threads) if (parallel && panels > 1)
        for (int p = 0; p < panels; p++)
            panel(4, in, stride ? stride : K, M, K, packed + long(p) * std::max(K, depth) * PANEL, PANEL,
                  w.scale ? w.scale + p * PANEL : nullptr, to + p * PANEL, long(panels) * PANEL, add);
    }

    // Assign slots to n tokens per environment, and compute their rotary angles and attention masks.
    void reserve(const int64_t *tokens, int count) {
        n = count;
        const int slots = cache.slots, half = S / 2;
        bias.resize(long(num_envs) * n * slots), cos.resize(long(num_envs) * n * half), sin.resize(cos.size());
        if (cache.prefix)
            prefix_query.resize(long(num_envs) * n * D), prefix_cos.resize(cos.size()), prefix_sin.resize(cos.size());
        visible.clear(), visible_begin.assign(1, 0), position.resize(num_envs);
        const int64_t reach = is_prefix ? 0 : m.context - cache.prefix;
        for (int env = 0; env < num_envs; env++) {
            int64_t *index = cache.index + envs[env] * slots;
            const int64_t next_position = position[env] = is_prefix ? 0 : cache.next_position[envs[env]];
            for (int t = 0; t < n; t++) index[slot(env, t)] = tokens[env * n + t] == PAD ? EMPTY : next_position + t;
            for (int t = 0; t < n; t++) {
                const int64_t query = next_position + t;
                float *row = &bias[(long(env) * n + t) * slots];
                for (int s = 0; s < cache.window; s++) {
                    const int64_t distance = query - index[s];
                    row[s] = (distance >= 0) & (distance < reach) ? 0.0f : MASKED;
                }
                for (int s = cache.window; s < slots; s++) row[s] = (index[s] >= 0) & (index[s] <= query) ? 0.0f : MASKED;
                row[slot(env, t)] = 0.0f;  // a PAD attends to itself
                set_angles(query, &cos[(long(env) * n + t) * half], &sin[(long(env) * n + t) * half]);
                if (cache.prefix)
                    set_angles(std::min<int64_t>(query, m.context - 1), &prefix_cos[(long(env) * n + t) * half],
                         &prefix_sin[(long(env) * n + t) * half]);
            }
            find_visible(&bias[long(env) * n * slots]);
            visible_begin.push_back(int(visible.size()));
            if (!is_prefix) cache.next_position[envs[env]] += n;
        }
    }

    // Append the spans of slots that a query of an environment attends to: in each panel from the first to the last unit.
    void find_visible(const float *rows) {
        for (int panel = 0; panel < cache.slots; panel += PANEL) {
            int first = PANEL, end = 0;
            for (int s = 0; s < PANEL; s += UNIT) {
                int any = 0;
                for (int t = 0; t < n; t++)
                    for (int i = 0; i < UNIT; i++) any |= rows[long(t) * cache.slots + panel + s + i] == 0.0f;
                if (any) first = std::min(first, s), end = s + UNIT;
            }
            if (end) visible.push_back({panel + first, end - first});
        }
    }

    void set_angles(int64_t place, float *c, float *s) const {
        for (int j = 0; j < S / 2; j++) {
            const double angle = double(place) * frequency[j];
            c[j] = float(std::cos(angle)), s[j] = float(std::sin(angle));
        }
    }

    // A token's slot follows from its position, which is at least -1: an episode's sums have the same order at any time.
    int slot(int env, int t) const { return is_prefix ? cache.window + t : int((position[env] + t + 1) % cache.window); }

    // Remove the last `count` tokens of every environment from the cache.
    void rewind(int count) {
        for (int env = 0; env < num_envs; env++) {
            int64_t &next = cache.next_position[envs[env]];
            next -= count;
            for (int t = 0; t < count; t++)
                cache.index[envs[env] * cache.slots + (next + t + 1) % cache.window] = EMPTY;
        }
    }

    long head_offset(int layer, int env, int head) const {  // of a head's keys and values
        return ((long(layer) * cache.num_envs + envs[env]) * H + head) * cache.slots * S;
    }

    // Rotate a head's queries and keys in place, and write its keys and values into the cache.
    void update(int layer, int env, int head, float *qkv) {
        const int slots = cache.slots, half = S / 2;
        C *keys = static_cast<C *>(cache.keys) + head_offset(layer, env, head);
        C *values = static_cast<C *>(cache.values) + head_offset(layer, env, head);
        const float scale = 1.0f / std::sqrt(float(S));
        for (int t = 0; t < n; t++) {
            float *q = qkv + t * 3L * D + head * S, *k = q + D, *v = k + D;
            const float *c = &cos[(long(env) * n + t) * half], *s = &sin[(long(env) * n + t) * half];
            if (cache.prefix) {
                float *to = &prefix_query[(long(env) * n + t) * D + head * S];
                const float *a = &prefix_cos[(long(env) * n + t) * half], *b = &prefix_sin[(long(env) * n + t) * half];
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

    // Attention of one head's queries from `first` on, over the visible spans of slots.
    void attend(int layer, int env, int head, const float *qkv, int first, float *to) {
        const int slots = cache.slots, rows = n - first, block = NR * UNIT;
        const Span *begin = &visible[visible_begin[env]], *end = &visible[visible_begin[env + 1]];
        int used = 0;
        for (const Span *a = begin; a < end; a++) used += a->count;
        const C *keys = static_cast<C *>(cache.keys) + head_offset(layer, env, head);
        const C *values = static_cast<C *>(cache.values) + head_offset(layer, env, head);
        const float *q = qkv + first * 3L * D + head * S;
        const float *prefix_q = cache.prefix ? &prefix_query[(long(env) * n + first) * D + head * S] : nullptr;
        thread_local std::vector<float> weight, inverse_sum;
        weight.resize(long(rows) * used), inverse_sum.resize(rows);
        float *w = weight.data();
        for (const Span *a = begin; a < end; w += a->count, a++) {
            const bool in_prefix = a->slot >= cache.window;
            panel(a->count / UNIT, in_prefix ? prefix_q : q, in_prefix ? D : 3L * D, rows, S,
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
            inverse_sum[t] = 1.0f / total;
        }
        w = weight.data();
        for (const Span *a = begin; a < end; w += a->count, a++)
            for (int j = 0; j < S; j += block)
                panel(NR, w, used, rows, a->count, values + (long(j / block) * slots + a->slot) * block, block, nullptr,
                      to + head * S + j, D, a > begin);
        for (int t = 0; t < rows; t++)
            for (int j = 0; j < S; j++) to[t * D + head * S + j] *= inverse_sum[t];
    }

    void layer_norms(const float *weight, const float *shift, int rows) {
#pragma omp parallel for num_threads(cache.threads) if (parallel)
        for (int r = 0; r < rows; r++) layer_norm(&x[long(r) * D], weight, shift, D, &y[long(r) * D]);
    }

    // The transformer over x [env][n][width]. Writes y [env][predictors][width], the normalised states of the last tokens.
    void forward(const int64_t *tokens, int count) {
        reserve(tokens, count);
        const int F = m.feed_forward, total = num_envs * n;
        y.resize(long(total) * std::max(D, F / 2)), wide.resize(long(total) * std::max(3 * D, F));
        int rows = n;
        for (int l = 0; l < m.layers; l++) {
            const Layer &layer = m.layer[l];
            layer_norms(layer.norm1, layer.bias1, total);
            product(y.data(), total, D, layer.qkv, 3 * D, wide.data(), false);
            const int first = l + 1 < m.layers ? 0 : n - predictors;  // the last layer computes the predictors alone
            rows = n - first;
#pragma omp parallel for collapse(2) num_threads(cache.threads) if (parallel)
            for (int env = 0; env < num_envs; env++)
                for (int head = 0; head < H; head++) {
                    float *qkv = &wide[long(env) * n * 3 * D];
                    update(l, env, head, qkv);
                    attend(l, env, head, qkv, first, &y[long(env) * rows * D]);
                }
            if (first)
                for (int env = 0; env < num_envs; env++)
                    std::memmove(&x[long(env) * rows * D], &x[(long(env) * n + first) * D], rows * D * sizeof(float));
            const int M = num_envs * rows;
            product(y.data(), M, D, layer.out, D, x.data(), true);
            layer_norms(layer.norm2, layer.bias2, M);
            product(y.data(), M, D, layer.hidden, F, wide.data(), false);
#pragma omp parallel for num_threads(cache.threads) if (parallel)
            for (int r = 0; r < M; r++)
                for (int j = 0; j < F / 2; j++)
                    y[long(r) * (F / 2) + j] = wide[long(r) * F + j] * gelu(wide[long(r) * F + F / 2 + j]);
            product(y.data(), M, F / 2, layer.down, D, x.data(), true);
        }
        layer_norms(m.norm, m.bias, num_envs * predictors);
    }

    // Value groups as tokens, `group_embeddings`: their values side by side, up to the last that is not PAD in any of
    // them, through one matrix.
    void embed_groups(const int16_t *groups, int count) {
        const int width = m.values_per_token;
        int used = 1;
        for (int p = 0; p < count; p++)
            for (int i = used; i < width; i++)
                if (groups[long(p) * width + i] != PAD) used = i + 1;
        group_values.resize(long(count) * used * VALUE), group_embeddings.resize(long(count) * D);
        for (int p = 0; p < count; p++)
            for (int i = 0; i < used; i++) {
                const float *row = m.values + (groups[long(p) * width + i] - PAD) * VALUE;
                std::memcpy(&group_values[(long(p) * used + i) * VALUE], row, VALUE * sizeof(float));
            }
        product(group_values.data(), count, used * VALUE, m.mix, D, group_embeddings.data(), false, 0, width * VALUE);
    }

    void embed(const int64_t *tokens, const int64_t *local, const float *patches, int count) {
        x.resize(long(num_envs) * count * D);
        const float *group = group_embeddings.data();
        for (long r = 0; r < long(num_envs) * count; r++) {
            float *to = &x[r * D];
            if (tokens[r] == PATCH && patches) std::memcpy(to, patches, D * sizeof(float)), patches += D;
            else if (tokens[r] == VALUES && m.values) std::memcpy(to, group, D * sizeof(float)), group += D;
            else std::memcpy(to, m.table + std::max<int64_t>(tokens[r], 0) * D, D * sizeof(float));
            const int64_t place = local ? local[r] : -1;
            for (int j = 0; place >= 0 && j < D; j++) to[j] += m.local[place * D + j];
        }
    }

    // Index of the first allowed id up to which the probability exceeds `share`, or reaches it for the median.
    int quantile(const float *logits, int count, const uint8_t *allowed, float inverse_temperature, double share,
                 bool median) {
        weights.resize(count);
        float top = -INFINITY;
        double total = 0, before = 0;
        for (int i = 0; i < count; i++) weights[i] = allowed && !allowed[i] ? MASKED : logits[i];
        for (int i = 0; i < count; i++) top = std::max(top, weights[i]);
        for (int i = 0; i < count; i++) weights[i] = exp_nonpositive((weights[i] - top) * inverse_temperature);
        for (int i = 0; allowed && i < count; i++) weights[i] = allowed[i] ? weights[i] : 0.0f;
        for (int i = 0; i < count; i++) total += weights[i];
        int last = 0;
        for (int i = 0; i < count; i++) {
            if (weights[i] <= 0) continue;
            before += weights[i], last = i;
            if (median ? before >= share * total : before > share * total) break;
        }
        return last;
    }

    int argmax(const float *logits, int count, const uint8_t *allowed) const {
        int at = -1;
        for (int i = 0; i < count; i++)
            if ((!allowed || allowed[i]) && (at < 0 || logits[i] > logits[at])) at = i;
        return at;
    }

    // Row in the block of action token `a` for the digits that were chosen before it.
    static long mask_row(const Request &r, const int64_t *chosen, int a) {
        long row = 0;
        for (int before = a - r.choices[a].digit; before < a; before++)
            row = row * r.choices[before].count + chosen[before] - r.choices[before].low;
        return row;
    }

    // Choose action token `a` of each environment from the state of a predictor; `offset` is that of its mask's block.
    void choose(const Request &r, int a, int predictor, long offset) {
        const ActionToken &c = r.choices[a];
        const float *from = &y[long(predictor) * D];
        const long row = (c.count + PANEL - 1) / PANEL * PANEL;
        float *scores = c.logits + base * row;
        if (m.decoder) {
            score.resize(long(num_envs) * STATE), state.resize(score.size());
            product(from, num_envs, D, c.marginal, STATE, score.data(), false, long(predictors) * D);
            if (a && !r.marginal) {
                product(from, num_envs, D, c.state, STATE, state.data(), false, long(predictors) * D);
                for (size_t i = 0; i < state.size(); i++) state[i] = gelu(state[i] + chain[i]);
                product(state.data(), num_envs, STATE, c.out, STATE, score.data(), true);
            }
            product(score.data(), num_envs, STATE, c.head, c.count, scores, false);
        } else product(from, num_envs, D, c.head, c.count, scores, false, long(predictors) * D);
        for (int env = 0; env < num_envs; env++) {
            const float *logits = scores + env * row;
            const long at = long(base + env) * r.actions + a;
            const uint8_t *allowed = r.allowed ? r.allowed + long(base + env) * r.allowed_stride + offset : nullptr;
            if (allowed) allowed += mask_row(r, &r.chosen[at - a], a) * c.count;
            if (r.forced) r.chosen[at] = r.forced[at];
            else if (r.uniforms)
                r.chosen[at] = c.low + quantile(logits, c.count, allowed, float(r.inverse_temperature), r.uniforms[at], false);
            else if (c.ordered) r.chosen[at] = c.low + quantile(logits, c.count, allowed, 1, 0.5, true);
            else r.chosen[at] = c.low + argmax(logits, c.count, allowed);
        }
        if (m.decoder && !r.marginal && a + 1 < r.actions) extend(r, a);
    }

    // Add the chosen ids of action token `a` to the chain, which the action tokens after it read.
    void extend(const Request &r, int a) {
        chosen_rows.resize(long(num_envs) * CHOSEN);
        if (!a) chain.assign(long(num_envs) * STATE, 0.0f);
        for (int env = 0; env < num_envs; env++) {
            const float *row = m.chosen + (r.chosen[long(base + env) * r.actions + a] - m.first_id) * CHOSEN;
            std::memcpy(&chosen_rows[long(env) * CHOSEN], row, CHOSEN * sizeof(float));
        }
        product(chosen_rows.data(), num_envs, CHOSEN, r.choices[a].read, STATE, chain.data(), true);
        if (a % GROUP == GROUP - 1) {
            state = chain;
            product(state.data(), num_envs, STATE, m.carry, STATE, chain.data(), false);
        }
    }
};

template <class W, class C>
void step(const Model &m, Cache &cache, const Request &r) {
    const int num_envs = r.num_envs;
    // Threads share each product of a few environments; of many, each thread takes some through the whole step.
    const int parts = num_envs >= ROWS * cache.threads ? cache.threads : 1;
    const auto work = [&](int part) {
        thread_local Workspace kept;
        const int first = long(num_envs) * part / parts, own = long(num_envs) * (part + 1) / parts - first;
        Step<W, C> run(m, cache, r, first, own, cache.threads > parts, std::move(kept));
        run.predictors = m.decoder && r.actions ? (r.actions + GROUP - 1) / GROUP : 1;
        const int64_t *tokens = r.tokens + long(first) * r.count, *end = tokens + long(own) * r.count;
        if (r.group_count)
            run.embed_groups(r.value_groups + std::count(r.tokens, tokens, VALUES) * m.values_per_token,
                             std::count(tokens, end, VALUES));
        const float *patches = r.patch_count ? r.patches + std::count(r.tokens, tokens, PATCH) * m.width : nullptr;
        run.embed(tokens, r.local + long(first) * r.count, patches, r.count);
        run.forward(tokens, r.count);
        long offset = 0;
        for (int a = 0; a < r.actions; a++) {
            if (a && !m.decoder) {
                run.previous.resize(own);
                for (int i = 0; i < own; i++) run.previous[i] = r.chosen[long(first + i) * r.actions + a - 1];
                run.embed(run.previous.data(), nullptr, nullptr, 1);
                run.forward(run.previous.data(), 1);
            }
            run.choose(r, a, m.decoder ? a / GROUP : 0, offset);
            if (r.allowed) offset += block_size(r, a);  // which was checked
        }
        if (r.actions) run.rewind(m.rewound);
        kept = std::move(run);
    };
    if (parts == 1) work(0);  // outside of any parallel region: nested ones would start threads for each product
    else {
#pragma omp parallel for num_threads(parts)
        for (int part = 0; part < parts; part++) work(part);
    }
}

}  // namespace

extern "C" {

// A control step of some environments, whose action tokens are decoded one after the other, each fed back before the
// next; or, without actions, the pass over their prefixes. Returns an error code, and then has changed nothing.
int32_t gato_step(const Model *m, const Cache *cache, const Request *request) {
    if (const Error error = check(*m, *cache, *request)) return error;
    Cache own = *cache;
    own.threads = usable(own.threads);
    const auto run = m->kind == 0 ? step<float, float> : m->kind == 1 ? step<bf16, bf16> : step<int8_t, bf16>;
    run(*m, own, *request);
    return NONE;
}

int32_t gato_abi() { return ABI; }

int32_t gato_sizes(int32_t *sizes, int32_t capacity) {
    return write_sizes({sizeof(Matrix), sizeof(Layer), sizeof(Model), sizeof(Cache), sizeof(ActionToken), sizeof(Request)},
                       sizes, capacity);
}
}
