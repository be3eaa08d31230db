/* Vectors of one lane: rows.h in plain C, for machines without a vector set that has a file here. */
#ifndef TD_KERNELS_VEC_REF_H
#define TD_KERNELS_VEC_REF_H

#include "../base/half.h"

#include <math.h>
#include <stdint.h>

enum { TD_R = 1 };
typedef float vf;
typedef int32_t vi;

#define V_OP static inline

V_OP vf vf_zero(void) {
    return 0.0f;
}
V_OP vf vf_set1(float x) {
    return x;
}
V_OP vf vf_load(const float *p) {
    return *p;
}
V_OP void vf_store(float *p, vf x) {
    *p = x;
}
V_OP vf vf_add(vf a, vf b) {
    return a + b;
}
V_OP vf vf_sub(vf a, vf b) {
    return a - b;
}
V_OP vf vf_mul(vf a, vf b) {
    return a * b;
}
V_OP vf vf_div(vf a, vf b) {
    return a / b;
}
V_OP vf vf_fma(vf a, vf b, vf c) {
    return fmaf(a, b, c);
}
V_OP vf vf_max(vf a, vf b) {
    return a > b ? a : b;
}
V_OP vf vf_min(vf a, vf b) {
    return a < b ? a : b;
}
V_OP vf vf_abs(vf a) {
    return fabsf(a);
}
V_OP vf vf_less(vf a, vf b, vf yes, vf no) {
    return a < b ? yes : no;
}
V_OP vf vf_from_vi(vi a) {
    return (float)a;
}
V_OP vi vi_nearest(vf a) {
    return fabsf(a) < 0x1p31f ? (vi)rintf(a) : INT32_MIN;
}
V_OP vi vi_half(vi a) {
    return a >> 1;
}
V_OP vi vi_sub(vi a, vi b) {
    return (vi)((uint32_t)a - (uint32_t)b);
}
V_OP vf vf_pow2(vi n) {
    return td_bits_f32((uint32_t)(n + 127) << 23);
}
V_OP void vi_store_i8(uint8_t *p, vi a) {
    *p = (uint8_t)a;
}
V_OP int vi_sum(vi a) {
    return a;
}
V_OP vi vi_zero(void) {
    return 0;
}
V_OP vi vi_add(vi a, vi b) {
    return (vi)((uint32_t)a + (uint32_t)b);
}
V_OP float vf_tree_sum(vf a) {
    return a;
}
V_OP float vf_largest(vf a) {
    return a;
}

#endif
