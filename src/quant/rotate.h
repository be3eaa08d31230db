/* The Walsh-Hadamard transform of the turbo types (rotated.c). */
#ifndef TD_QUANT_ROTATE_H
#define TD_QUANT_ROTATE_H

/* In place on 128 values of one head: the rotation of the turbo cache types and its inverse (orthogonal both). */
void td_turbo_forward(float *x);
void td_turbo_inverse(float *x);

#endif
