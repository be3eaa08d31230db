/* The bodies of search_lanes.c, compiled once per instruction set: included there only. LANE_FN(name) names a function
 * and carries its target attribute. Vectors are the compiler's own; nothing here depends on their width. */

static LANE_TARGET void LANE_FN(qx)(const float *x, const float *w, int n, int nmax, float *scale_out, uint8_t *code) {
    vf amax = {0}, smax = {0};
    for (int i = 0; i < n; i++) {
        vf v = LOAD(x, i), a = ABS(v);
        vi m = a > amax;
        amax = SEL(m, a, amax);
        smax = SEL(m, v, smax);
    }
    vi valid = amax >= TD_SEARCH_EPSILON;
    smax = SEL(valid, smax, ONE);
    vi every = ~(vi){0};
    vf scale = {0}, best = {0}, s_best = {0}, lo = ZERO - (float)nmax, hi = ZERO + (float)(nmax - 1);
    for (int t = 0; t < 19; t++) {
        int k = t == 0 ? 0 : t <= 9 ? t - 10 : t - 9;
        vf s = (ZERO + (t == 0 ? (float)-nmax : -((float)nmax + 0.1f * (float)k))) / smax, a = {0}, b = {0};
        for (int i = 0; i < n; i++) {
            vf v = LOAD(x, i), l = RNE(s * v), wi = w ? LOAD(w, i) : v * v;
            l = SEL(l > lo, l, lo);
            l = SEL(l < hi, l, hi);
            a += wi * v * l;
            b += wi * l * l;
        }
        vi ok = b > ZERO;
        vf fit = SEL(ok, a / b, ZERO);
        vi take = t == 0 ? every : ok & (a * a > best * b);
        scale = SEL(take, fit, scale);
        best = SEL(take, fit * a, best);
        s_best = SEL(take, s, s_best);
    }
    scale = SEL(valid, scale, ZERO);
    STORE(scale_out, scale);
    for (int i = 0; i < n; i++) {
        vf l = RNE(s_best * LOAD(x, i));
        l = SEL(l > lo, l, lo);
        l = SEL(l < hi, l, hi);
        STORE_CODES(code, i, SEL(valid, l - lo, ZERO));
    }
}

static LANE_TARGET void LANE_FN(q3)(const float *x, int n, int nmax, float *scale_out, uint8_t *code) {
    vf amax = {0}, smax = {0}, l[32], lo = ZERO - (float)nmax, hi = ZERO + (float)(nmax - 1), all_a = {0}, all_b = {0};
    for (int i = 0; i < n; i++) {
        vf v = LOAD(x, i), a = ABS(v);
        vi m = a > amax;
        amax = SEL(m, a, amax);
        smax = SEL(m, v, smax);
    }
    vi valid = amax >= TD_SEARCH_EPSILON;
    vf s = lo / SEL(valid, smax, ONE);
    for (int i = 0; i < n; i++) {
        vf v = LOAD(x, i), w = v * v, c = RNE(s * v);
        c = SEL(c > lo, c, lo);
        c = SEL(c < hi, c, hi);
        l[i] = c;
        all_a += w * v * c;
        all_b += w * c * c;
    }
    vi active = valid; /* lanes whose last sweep changed something */
    for (int sweep = 0; sweep < 5; sweep++) {
        vi changed = {0};
        for (int i = 0; i < n; i++) {
            vf v = LOAD(x, i), w = v * v, a = all_a - w * v * l[i], b = all_b - w * l[i] * l[i], c = RNE(v * b / a);
            c = SEL(c > lo, c, lo);
            c = SEL(c < hi, c, hi);
            vi go = active & (a > ZERO) & (c != l[i]);
            a += w * v * c;
            b += w * c * c;
            go &= (b > ZERO) & (a * a * all_b > all_a * all_a * b);
            l[i] = SEL(go, c, l[i]);
            all_a = SEL(go, a, all_a);
            all_b = SEL(go, b, all_b);
            changed |= go;
        }
        active &= changed;
    }
    vf scale = SEL(valid & (all_b > ZERO), all_a / all_b, ZERO);
    STORE(scale_out, scale);
    for (int i = 0; i < n; i++) STORE_CODES(code, i, SEL(valid, l[i] - lo, ZERO));
}

static LANE_TARGET void LANE_FN(qkx)(const float *x, const float *w, int n, int nmax, float rmin, float rdelta,
                                     int n_step, bool use_abs, float *scale_out, float *minus_min, uint8_t *code) {
    vf min = LOAD(x, 0), max = min, sw = LOAD(w, 0), sx = sw * min, hi = ZERO + (float)nmax, l[32];
    for (int i = 1; i < n; i++) {
        vf v = LOAD(x, i), wi = LOAD(w, i);
        min = SEL(v < min, v, min);
        max = SEL(v > max, v, max);
        sw += wi;
        sx += wi * v;
    }
    min = SEL(min > ZERO, ZERO, min);
    vi valid = max > min;
    vf start_min = min;
    max = SEL(valid, max, min + ONE);
    vf s = hi / (max - min), scale = ONE / s, best = {0}, s_kept = s,
       min_kept = min; /* what the kept codes came from */
    for (int i = 0; i < n; i++) {
        vf v = LOAD(x, i), c = RNE(s * (v - min));
        c = SEL(c > ZERO, c, ZERO);
        c = SEL(c < hi, c, hi);
        vf e = scale * c + min - v;
        best += LOAD(w, i) * (use_abs ? ABS(e) : e * e);
    }
    for (int k = 0; k <= n_step; k++) {
        vf sl = {0}, sll = {0}, sxl = {0}, err = {0};
        s = (ZERO + (rmin + rdelta * (float)k + (float)nmax)) / (max - min);
        for (int i = 0; i < n; i++) {
            vf v = LOAD(x, i), wi = LOAD(w, i), c = RNE(s * (v - min));
            c = SEL(c > ZERO, c, ZERO);
            c = SEL(c < hi, c, hi);
            l[i] = c;
            sl += wi * c;
            sll += wi * c * c;
            sxl += wi * c * v;
        }
        vf det = sw * sll - sl * sl, t_scale = (sw * sxl - sx * sl) / det, t_min = (sll * sx - sl * sxl) / det;
        vi up = t_min > ZERO;
        t_scale = SEL(up, sxl / sll, t_scale);
        t_min = SEL(up, ZERO, t_min);
        for (int i = 0; i < n; i++) {
            vf e = t_scale * l[i] + t_min - LOAD(x, i);
            err += LOAD(w, i) * (use_abs ? ABS(e) : e * e);
        }
        vi take = (det > ZERO) & (err < best);
        s_kept = SEL(take, s, s_kept);
        min_kept = SEL(take, min, min_kept);
        best = SEL(take, err, best);
        scale = SEL(take, t_scale, scale);
        min = SEL(take, t_min, min); /* the following trials use it: the bytes depend on this */
    }
    STORE(scale_out, SEL(valid, scale, ZERO));
    STORE(minus_min, ZERO - SEL(valid, min, start_min));
    for (int i = 0; i < n; i++) {
        vf c = RNE(s_kept * (LOAD(x, i) - min_kept));
        c = SEL(c > ZERO, c, ZERO);
        c = SEL(c < hi, c, hi);
        STORE_CODES(code, i, SEL(valid, c, ZERO));
    }
}

static LANE_TARGET void LANE_FN(recode)(const float *x, int n, const float *d, const float *m, int lo, int hi,
                                        uint8_t *code) {
    vf dv = LOAD(d, 0), mv = m ? LOAD(m, 0) : ZERO, low = ZERO + (float)lo, high = ZERO + (float)hi;
    vi use = dv != ZERO;
    dv = SEL(use, dv, ONE);
    for (int i = 0; i < n; i++) {
        vf c = RNE((LOAD(x, i) + mv) / dv);
        c = SEL(c > low, c, low);
        c = SEL(c < high, c, high);
        STORE_CODES(code, i, SEL(use, c - low, LOAD_CODES(code, i)));
    }
}

/* The table entry nearest to v, as a value: the entries are counted up by the midpoints passed. A midpoint itself goes
 * to the upper entry, and near a midpoint both differences of the scalar comparison are exact, so the two agree. */
#define IQ4_VALUE(out, v)                                                                                              \
    do {                                                                                                               \
        (out) = ZERO + (float)td_iq4_values[0];                                                                        \
        for (int q_ = 0; q_ < 15; q_++) (out) += SEL((v) >= iq4_middle[q_], ZERO + iq4_step[q_], ZERO);                \
    } while (0)

static LANE_TARGET void LANE_FN(iq4_fit)(const float *x, const float *w, float *scale_out) {
    vf amax = {0}, smax = {0};
    for (int i = 0; i < 32; i++) {
        vf v = LOAD(x, i), a = ABS(v);
        vi m = a > amax;
        amax = SEL(m, a, amax);
        smax = SEL(m, v, smax);
    }
    vi valid = amax >= TD_SEARCH_EPSILON;
    smax = SEL(valid, smax, ONE);
    vf d = smax / (float)-td_iq4_values[0], best = {0};
    for (int k = -8; k <= 7; k++) {
        vf inv = k == -8 ? ONE / d : (ZERO + ((float)k + (float)td_iq4_values[0])) / smax, vx = {0}, vv = {0};
        for (int i = 0; i < 32; i++) {
            vf v = LOAD(x, i), wi = LOAD(w, i), q = inv * v, t;
            IQ4_VALUE(t, q);
            vx += wi * t * v;
            vv += wi * t * t;
        }
        if (k == -8) {
            valid &= vv > ZERO;
            d = vx / vv;
            best = d * vx;
        } else {
            vi take = (vv > ZERO) & (vx * vx > best * vv);
            d = SEL(take, vx / vv, d);
            best = SEL(take, d * vx, best);
        }
    }
    STORE(scale_out, SEL(valid, d, ZERO));
}

static LANE_TARGET void LANE_FN(iq4_codes)(const float *x, const float *inv, uint8_t *code) {
    vf iv = LOAD(inv, 0);
    for (int i = 0; i < 32; i++) {
        vf v = LOAD(x, i) * iv, c = ZERO;
        for (int q = 0; q < 15; q++) c += SEL(v >= iq4_middle[q], ONE, ZERO);
        STORE_CODES(code, i, c);
    }
}

static const td_lane_fns LANE_FN(table) = {LANE_FN(qx),     LANE_FN(q3),      LANE_FN(qkx),
                                           LANE_FN(recode), LANE_FN(iq4_fit), LANE_FN(iq4_codes)};
#undef IQ4_VALUE
