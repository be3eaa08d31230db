/* Cache pages: layout, and coding of one position.
 *
 * A token's keys and values come here after norm and rotation (td_attn_store), are laid out for the kernels, and are
 * decoded again only to be turned to new positions or inspected. The layouts are private to the process; quantised
 * blocks carry one f32 scale per position and 15-bit factors per group relative to it, so that a tile of any type is
 * 16-bit integers with one scale per position. The code books are the least-error ones for a normal distribution. */
#include "attention_ops.h"

#include <strings.h>

/* Levels of least squared error for normal values whose scale is itself chosen for least error (alternating least
 * squares over codes, scales and levels, 6,000 groups), scaled so that the largest is 32,700: groups of 32 for q4_0, of
 * 128 for the others. 8 bits have the implied table code << 8. */
static const int16_t table_q4[16] = {-32700, -25259, -19713, -15230, -11378, -7876, -4649, -1545,
                                     1545,   4649,   7876,   11378,  15230,  19713, 25259, 32700};
static const int16_t table_turbo4[16] = {-32700, -24506, -18987, -14635, -10899, -7543, -4438, -1465,
                                         1465,   4438,   7543,   10899,  14635,  18987, 24506, 32700};
static const int16_t table_turbo3[8] = {-32700, -20056, -11169, -3612, 3612, 11169, 20056, 32700};
static const int16_t table_turbo2[4] = {-32700, -9700, 9700, 32700};

static const attn_format formats[TD_KV_TYPE_COUNT] = {
    [TD_KV_F32] = {"f32", 32, 0, 0, NULL},
    [TD_KV_F16] = {"f16", 16, 0, 0, NULL},
    [TD_KV_BF16] = {"bf16", 16, 0, 0, NULL},
    [TD_KV_Q8_0] = {"q8_0", 8, 0, 32, NULL},
    [TD_KV_Q4_0] = {"q4_0", 4, 1, 32, table_q4},
    [TD_KV_TURBO4] = {"turbo4", 4, 1, 128, table_turbo4},
    [TD_KV_TURBO3] = {"turbo3", 3, 1, 128, table_turbo3},
    [TD_KV_TURBO2] = {"turbo2", 2, 1, 128, table_turbo2},
};

const attn_format *td_attn_format(td_kv_type type) {
    return &formats[type];
}

const char *td_kv_type_name(td_kv_type type) {
    return (unsigned)type < TD_KV_TYPE_COUNT ? formats[type].name : "?";
}

bool td_kv_type_parse(const char *name, td_kv_type *out) {
    for (int i = 0; i < TD_KV_TYPE_COUNT; i++) {
        if (strcasecmp(name, formats[i].name) != 0) continue;
        *out = (td_kv_type)i;
        return true;
    }
    return false;
}

/* Codes of a word run along the steps of a key tile (4 codes of 4 bits, 8 of 2, 16 of 3 bits in 3 words), and along
 * groups of 16 dimensions of the values: each position has its own words, so threads may store neighbours at once. */
attn_block td_attn_block(td_kv_type type, uint32_t n, bool value) {
    const attn_format *f = &formats[type];
    attn_block b = {.n = n};
    size_t codes = 0;
    if (f->bits >= 8) {
        codes = (size_t)n * f->bits / 8 * TD_ATTN_PAGE;
    } else {
        uint32_t per_word = f->bits == 3 ? 16 : 16u / f->bits, words = f->bits == 3 ? 3 : 1;
        if (value) { /* dimensions come in groups of 16 */
            codes = (size_t)(n / 16 + per_word - 1) / per_word * words * PAIRS * 32 * 2;
        } else { /* steps are two dimensions */
            codes = (size_t)(n / 2 + per_word - 1) / per_word * words * TD_ATTN_PAGE * 2 * 2;
        }
    }
    b.bytes = codes;
    if (f->bits == 32) return b;
    if (f->group) {
        uint32_t most = attn_rotation(n);
        b.group = f->group < most ? f->group : most;
        b.factor = b.bytes;
        /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): the group would be 0 only for n = 0 */
        b.bytes += (size_t)(n / b.group) * TD_ATTN_PAGE * sizeof(uint16_t);
    }
    b.scale = b.bytes;
    b.bytes += TD_ATTN_PAGE * sizeof(float);
    return b;
}

static void list_strips(td_attn_shape *s) {
    s->n_strip = 0;
    if (!s->fold) return;
    for (uint32_t strip = 0; strip < s->d_head / HALF; strip++) {
        bool any = formats[s->type_v].rotate;
        for (uint32_t i = 0; i < HALF; i++) any = any || s->fold[strip * HALF + i] != 0.0f;
        if (any) s->strip[s->n_strip++] = (uint8_t)strip;
    }
}

td_status td_attn_shape_init(td_attn_shape *s, td_kv_type type_k, td_kv_type type_v, uint32_t n_kv, uint32_t d_head,
                             uint32_t d_key, const float *fold, const uint16_t *key_at, td_error *err) {
    if ((unsigned)type_k >= TD_KV_TYPE_COUNT || (unsigned)type_v >= TD_KV_TYPE_COUNT)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "attention: unknown cache type");
    if (d_head == 0 || d_head % 32 != 0 || d_head > TD_ATTN_D_MAX)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "attention: head size %u is not a multiple of 32 up to %d",
                       d_head, TD_ATTN_D_MAX);
    if (n_kv == 0 || n_kv > 65536)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "attention: %u key/value heads", n_kv);
    if (fold ? (!key_at || d_key == 0 || d_key % 32 != 0 || d_key > d_head || type_k != type_v) : d_key != d_head)
        return td_fail(err, TD_ERR_ARGUMENT, TD_NO_OFFSET, "attention: %u of %u key values cannot be stored apart",
                       d_key, d_head);
    *s = (td_attn_shape){.type_k = type_k, .type_v = type_v, .n_kv = n_kv, .d_head = d_head, .d_key = d_key};
    s->fold = fold;
    s->key_at = key_at;
    s->k_bytes = td_attn_block(type_k, d_key, false).bytes;
    s->v_bytes = td_attn_block(type_v, d_head, true).bytes;
    s->head_bytes = s->k_bytes + s->v_bytes;
    s->page_bytes = s->head_bytes * n_kv;
    list_strips(s);
    return TD_OK;
}

/* --- coding of a vector ------------------------------------------------------------------------------------------- */

typedef struct coded {
    int16_t code[TD_ATTN_D_MAX]; /* 16 bits: the value; 8 bits: -127 .. 127; fewer: index in the table */
    uint16_t factor[STRIP_MAX];
    float scale;
} coded;

static float largest_of(const float *x, uint32_t n) {
    float top = 0;
    for (uint32_t i = 0; i < n; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    return top;
}

static float sum_squares(const float *x, uint32_t n) {
    float s = 0;
    for (uint32_t i = 0; i < n; i++) s += x[i] * x[i];
    return s;
}

static attn_levels levels_of(const attn_format *f) {
    attn_levels l = {.half = 1 << (f->bits - 1)};
    for (int i = 0; i < l.half; i++) l.level[i] = (float)f->table[l.half + i];
    for (int i = 0; i < 8; i++) l.threshold[i] = i + 1 < l.half ? 0.5f * (l.level[i] + l.level[i + 1]) : INFINITY;
    return l;
}

/* The factor of least squared error for a group: from the spread, then a few rounds of codes and least squares. */
static float fit_table(const attn_ops *ops, const attn_format *f, const attn_levels *l, const float *x, uint32_t n) {
    float rms = sqrtf(sum_squares(x, n) / (float)n), best = 0, best_error = INFINITY, top = largest_of(x, n);
    if (!(rms > 0)) return 0;
    float spread = f->bits == 4 ? 12276.0f : f->bits == 3 ? 15006.0f : 21478.0f; /* level of one deviation */
    for (int start = 0; start < 3; start++) {
        float g = f->table == table_q4 ? top / 32700.0f * (0.8f + 0.125f * (float)start)
                                       : rms / spread * (0.9f + 0.1f * (float)start);
        for (int round = 0; round < 3; round++) {
            float xt = 0, tt = 0;
            ops->match(x, n, 1.0f / g, l, &xt, &tt);
            if (!(tt > 0) || !(xt > 0)) break;
            g = xt / tt;
            float error = -xt * g; /* up to the sum of squares of x */
            if (error >= best_error) continue;
            best_error = error;
            best = g;
        }
    }
    return best;
}

/* 8 bits: the best of three scales; they differ by chance only, and the least of three errors is an eighth lower. */
static float fit_8(const attn_ops *ops, const float *x, uint32_t n) {
    float top = largest_of(x, n), best = 0, least = INFINITY;
    if (!(top > 0)) return 0;
    for (int k = 0; k < 3; k++) {
        float step = top / (127.0f - 0.7f * (float)k), error = ops->error_8(x, n, step, 1.0f / step);
        if (error >= least) continue;
        least = error;
        best = step;
    }
    return best * (1.0f / 256.0f);
}

/* x [n] (changed) to codes. The scale keeps the norm of the integers below that of td_attn_ops.quantise's. */
static void encode(td_kv_type type, const attn_block *b, bool value, float *x, coded *c) {
    const attn_format *f = &formats[type];
    const attn_ops *ops = td_attn_ops();
    if (f->bits == 16) {
        c->scale = ops->quantise(x, b->n, value ? ATTN_V_MAX : ATTN_Q_MAX, c->code);
        return;
    }
    /* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): the callers' loops fill x [n]; seen here with another n */
    for (uint32_t i = 0; i < b->n; i++) x[i] = isfinite(x[i]) ? x[i] : 0.0f;
    if (f->rotate) ops->rotate(x, b->n, attn_rotation(b->n), false);
    uint32_t n_group = b->n / b->group; /* NOLINT(clang-analyzer-core.DivideZero): below 16 bits all have groups */
    attn_levels levels = f->table ? levels_of(f) : (attn_levels){.half = 0};
    float gain[STRIP_MAX], largest = 0;
    for (uint32_t g = 0; g < n_group; g++) {
        const float *y = x + g * b->group;
        gain[g] = f->table ? fit_table(ops, f, &levels, y, b->group) : fit_8(ops, y, b->group);
        largest = gain[g] > largest ? gain[g] : largest;
    }
    /* The norm after coding may exceed that of x, by little: a scale of least squares shortens. */
    float norm = sqrtf(sum_squares(x, b->n)) * (f->table ? 1.0f + 0.5f / (float)(1 << f->bits) : 1.03f);
    largest *= value ? 2.001f : 1.0001f; /* values: integers up to ATTN_V_MAX */
    c->scale = norm / 45000.0f > largest ? norm / 45000.0f : largest;
    if (!(c->scale > 1e-30f) || !isfinite(c->scale)) c->scale = 0;
    for (uint32_t g = 0; g < n_group; g++) {
        int32_t r = c->scale > 0 ? attn_round(gain[g] / c->scale * 32768.0f) : 0;
        r = r > 32767 ? 32767 : r;
        c->factor[g] = (uint16_t)r;
        float step = (float)r * (1.0f / 32768.0f) * c->scale, inv = r > 0 ? 1.0f / step : 0.0f;
        const float *y = x + g * b->group;
        if (f->table)
            ops->codes(y, b->group, inv, &levels, c->code + g * b->group);
        else
            ops->codes_8(y, b->group, inv * (1.0f / 256.0f), c->code + g * b->group);
    }
}

static void decode(td_kv_type type, const attn_block *b, const coded *c, float *x) {
    const attn_format *f = &formats[type];
    for (uint32_t i = 0; i < b->n; i++) {
        /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): n is a multiple of 32, get has written them all */
        int32_t v = c->code[i];
        /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): below 16 bits all formats have groups */
        if (f->bits < 16) v = attn_mulhrs(f->table ? f->table[v] : v * 256, c->factor[i / b->group]);
        x[i] = (float)v * c->scale;
    }
    if (f->rotate) td_attn_ops()->rotate(x, b->n, attn_rotation(b->n), true);
}

/* --- places in a block --------------------------------------------------------------------------------------------
 *
 * A position owns every word it writes: two 16-bit lanes of a row of keys, one lane of each row of values. */

static uint32_t codes_per_row(const attn_format *f) { /* in the word, or three words, of a lane */
    return f->bits == 3 ? 16 : 16u / f->bits;
}

static uint32_t words_per_row(const attn_format *f) {
    return f->bits == 3 ? 3 : 1;
}

/* Codes c[0], c[stride], … of one lane to its word(s), `triple` words apart. 3 bits: five in each of three words, the
 * sixteenth in their highest bits. Missing codes are 0. */
static void pack_lane(const attn_format *f, uint16_t *w, size_t triple, const int16_t *c, uint32_t stride, uint32_t n) {
    uint32_t word[3] = {0};
    if (f->bits != 3) {
        for (uint32_t i = 0; i < n; i++) word[0] |= (uint32_t)c[i * stride] << i * f->bits;
        w[0] = (uint16_t)word[0];
        return;
    }
    for (uint32_t i = 0; i < n && i < 15; i++) word[i / 5] |= (uint32_t)c[i * stride] << i % 5 * 3;
    for (uint32_t k = 0; k < 3; k++) {
        if (n == 16) word[k] |= ((uint32_t)c[15 * stride] >> k & 1u) << 15;
        w[k * triple] = (uint16_t)word[k];
    }
}

static void unpack_lane(const attn_format *f, const uint16_t *w, size_t triple, int16_t *c, uint32_t stride,
                        uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t code =
            f->bits != 3 ? (uint32_t)w[0] >> i * f->bits : (uint32_t)w[i < 15 ? i / 5 * triple : 0] >> i % 5 * 3;
        if (f->bits == 3 && i == 15) code = (uint32_t)(w[0] >> 15 | w[triple] >> 15 << 1 | w[2 * triple] >> 15 << 2);
        c[i * stride] = (int16_t)(code & ((1u << f->bits) - 1u));
    }
}

typedef void (*lane_fn)(const attn_format *f, uint16_t *w, size_t triple, int16_t *c, uint32_t stride, uint32_t n);

static void put_lane(const attn_format *f, uint16_t *w, size_t triple, int16_t *c, uint32_t stride, uint32_t n) {
    pack_lane(f, w, triple, c, stride, n);
}

static void get_lane(const attn_format *f, uint16_t *w, size_t triple, int16_t *c, uint32_t stride, uint32_t n) {
    unpack_lane(f, w, triple, c, stride, n);
}

/* Types below 8 bits: every lane of position `at`, with the codes that run along it. */
static void each_lane(const attn_format *f, const attn_block *b, bool value, uint16_t *block, uint32_t at, int16_t *c,
                      lane_fn fn) {
    uint32_t per_row = codes_per_row(f), words = words_per_row(f);
    if (value) { /* rows [group of runs][pair], lane 2 * (dimension % 16) + parity; a run is 16 dimensions */
        for (uint32_t run = 0; run < b->n / 16; run += per_row) {
            uint32_t n = b->n / 16 - run < per_row ? b->n / 16 - run : per_row;
            uint16_t *row = block + ((size_t)(run / per_row) * PAIRS + at / 2) * words * 32 + at % 2;
            for (uint32_t i = 0; i < 16; i++) fn(f, row + 2 * i, 32, c + run * 16 + i, 16, n);
        }
        return;
    }
    uint32_t steps = b->n / 2, rows = (steps + per_row - 1) / per_row;
    for (uint32_t r = 0; r < rows; r++) { /* rows [half][group of steps], lane 2 * (position % 32) + parity */
        uint32_t n = steps - r * per_row < per_row ? steps - r * per_row : per_row;
        uint16_t *row = block + ((size_t)(at / HALF) * rows + r) * words * LANES + 2 * (at % HALF);
        for (uint32_t e = 0; e < 2; e++) fn(f, row + e, LANES, c + (size_t)r * per_row * 2 + e, 2, n);
    }
}

static void put(td_kv_type type, const attn_block *b, bool value, uint8_t *block, uint32_t at, coded *c) {
    const attn_format *f = &formats[type];
    size_t row = value ? at / 2 : (size_t)(at / HALF) * (b->n / 2);
    if (f->bits < 8) {
        each_lane(f, b, value, (uint16_t *)(void *)block, at, c->code, put_lane);
    } else if (value) { /* [strip][pair][2 * dimension + parity] */
        for (uint32_t strip = 0; strip < b->n / HALF; strip++) {
            size_t to = ((size_t)strip * PAIRS + row) * LANES;
            for (uint32_t i = 0; i < HALF; i++) {
                int16_t code = c->code[strip * HALF + i];
                if (f->bits == 16)
                    memcpy(block + 2 * (to + 2 * i + at % 2), &code, 2);
                else
                    block[to + attn_byte_of(2 * i + at % 2)] = (uint8_t)code;
            }
        }
    } else { /* [half][step][2 * position + parity] */
        uint32_t lane = 2 * (at % HALF);
        for (uint32_t step = 0; step < b->n / 2; step++) {
            size_t to = (row + step) * LANES;
            if (f->bits == 16) {
                memcpy(block + 2 * (to + lane), &c->code[2 * step], 4);
            } else {
                block[to + attn_byte_of(lane)] = (uint8_t)c->code[2 * step];
                block[to + attn_byte_of(lane + 1)] = (uint8_t)c->code[2 * step + 1];
            }
        }
    }
    for (uint32_t g = 0; b->factor && g < b->n / b->group; g++)
        memcpy(block + b->factor + ((size_t)g * TD_ATTN_PAGE + at) * 2, &c->factor[g], 2);
    memcpy(block + b->scale + (size_t)at * sizeof(float), &c->scale, sizeof(float));
}

static void get(td_kv_type type, const attn_block *b, bool value, const uint8_t *block, uint32_t at, coded *c) {
    const attn_format *f = &formats[type];
    if (f->bits < 8) each_lane(f, b, value, (uint16_t *)(uintptr_t)block, at, c->code, get_lane);
    for (uint32_t i = 0; f->bits >= 8 && i < b->n; i++) {
        size_t to =
            value ? ((size_t)(i / HALF) * PAIRS + at / 2) * LANES : ((size_t)(at / HALF) * (b->n / 2) + i / 2) * LANES;
        uint32_t lane = value ? 2 * (i % HALF) + at % 2 : 2 * (at % HALF) + i % 2;
        if (f->bits == 16)
            memcpy(&c->code[i], block + 2 * (to + lane), 2);
        else
            c->code[i] =
                ((const int8_t *)block)[to + attn_byte_of(lane)]; /* NOLINT(bugprone-signed-char-misuse): a number */
    }
    for (uint32_t g = 0; b->factor && g < b->n / b->group; g++)
        memcpy(&c->factor[g], block + b->factor + ((size_t)g * TD_ATTN_PAGE + at) * 2, 2);
    memcpy(&c->scale, block + b->scale + (size_t)at * sizeof(float), sizeof(float));
}

/* Floats: keys [half][n][32], values [n / 32][64][32]. */
static float *float_at(const attn_block *b, bool value, uint8_t *block, uint32_t i, uint32_t at) {
    size_t e = value ? ((size_t)(i / HALF) * TD_ATTN_PAGE + at) * HALF + i % HALF
                     : ((size_t)(at / HALF) * b->n + i) * HALF + at % HALF;
    return (float *)(void *)block + e;
}

static void put_vector(td_kv_type type, uint32_t n, bool value, uint8_t *block, uint32_t at, float *x) {
    attn_block b = td_attn_block(type, n, value);
    if (formats[type].bits == 32) {
        for (uint32_t i = 0; i < n; i++) *float_at(&b, value, block, i, at) = isfinite(x[i]) ? x[i] : 0.0f;
        return;
    }
    coded c;
    encode(type, &b, value, x, &c);
    put(type, &b, value, block, at, &c);
}

static void get_vector(td_kv_type type, uint32_t n, bool value, const uint8_t *block, uint32_t at, float *x) {
    attn_block b = td_attn_block(type, n, value);
    if (formats[type].bits == 32) {
        for (uint32_t i = 0; i < n; i++)
            memcpy(&x[i],
                   block + (size_t)((const uint8_t *)float_at(&b, value, (uint8_t *)(uintptr_t)block, i, at) - block),
                   sizeof(float));
        return;
    }
    coded c;
    get(type, &b, value, block, at, &c);
    decode(type, &b, &c, x);
}

/* --- positions ---------------------------------------------------------------------------------------------------- */

static void store_key(const td_attn_shape *s, uint8_t *block, uint32_t at, const float *k) {
    float x[TD_ATTN_D_MAX];
    for (uint32_t i = 0; i < s->d_key; i++) x[i] = k[s->key_at ? s->key_at[i] : i];
    put_vector(s->type_k, s->d_key, false, block, at, x);
}

void td_attn_store(const td_attn_shape *s, void *page, uint32_t at, const float *k, const float *v) {
    for (uint32_t h = 0; h < s->n_kv; h++) {
        uint8_t *block = (uint8_t *)page + h * s->head_bytes;
        store_key(s, block, at, k + (size_t)h * s->d_head);
        float x[TD_ATTN_D_MAX];
        memcpy(x, v + (size_t)h * s->d_head, s->d_head * sizeof(float));
        put_vector(s->type_v, s->d_head, true, block + s->k_bytes, at, x);
    }
}

static void load_head(const td_attn_shape *s, const uint8_t *block, uint32_t at, float *k, float *v) {
    float x[TD_ATTN_D_MAX];
    get_vector(s->type_v, s->d_head, true, block + s->k_bytes, at, v);
    get_vector(s->type_k, s->d_key, false, block, at, x);
    if (!s->fold) {
        memcpy(k, x, s->d_head * sizeof(float));
        return;
    }
    for (uint32_t i = 0; i < s->d_head; i++) k[i] = s->fold[i] * v[i];
    for (uint32_t i = 0; i < s->d_key; i++) k[s->key_at[i]] = x[i];
}

void td_attn_load(const td_attn_shape *s, const void *page, uint32_t at, float *k, float *v) {
    for (uint32_t h = 0; h < s->n_kv; h++)
        load_head(s, (const uint8_t *)page + h * s->head_bytes, at, k + (size_t)h * s->d_head,
                  v + (size_t)h * s->d_head);
}

static void move_vector(td_kv_type type, uint32_t n, bool value, uint8_t *to, uint32_t to_at, const uint8_t *from,
                        uint32_t from_at) {
    attn_block b = td_attn_block(type, n, value);
    if (formats[type].bits == 32) {
        float x[TD_ATTN_D_MAX];
        get_vector(type, n, value, from, from_at, x);
        put_vector(type, n, value, to, to_at, x);
        return;
    }
    coded c;
    get(type, &b, value, from, from_at, &c);
    put(type, &b, value, to, to_at, &c);
}

void td_attn_move(const td_attn_shape *s, void *to, uint32_t to_at, const void *from, uint32_t from_at,
                  const float *cos_sin) {
    for (uint32_t h = 0; h < s->n_kv; h++) {
        uint8_t *t = (uint8_t *)to + h * s->head_bytes;
        const uint8_t *f = (const uint8_t *)from + h * s->head_bytes;
        if (cos_sin) {
            float k[TD_ATTN_D_MAX], v[TD_ATTN_D_MAX];
            uint32_t n = s->d_head / 2;
            load_head(s, f, from_at, k, v);
            for (uint32_t i = 0; i < n; i++) {
                float a = k[i], b = k[i + n], cs = cos_sin[2 * i], sn = cos_sin[2 * i + 1];
                k[i] = fmaf(a, cs, -(b * sn));
                k[i + n] = fmaf(b, cs, a * sn);
            }
            move_vector(s->type_v, s->d_head, true, t + s->k_bytes, to_at, f + s->k_bytes, from_at);
            store_key(s, t, to_at, k);
        } else {
            move_vector(s->type_k, s->d_key, false, t, to_at, f, from_at);
            move_vector(s->type_v, s->d_head, true, t + s->k_bytes, to_at, f + s->k_bytes, from_at);
        }
    }
}
