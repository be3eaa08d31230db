/* Walsh-Hadamard transforms and code books of the rotated types. */
#ifndef TD_QUANT_ROTATE_H
#define TD_QUANT_ROTATE_H

/* In place on 128 values of one head: the rotation of the turbo cache types and its inverse (orthogonal both). */
void td_turbo_forward(float *x);
void td_turbo_inverse(float *x);
/* In place on 32 values: the rotation of TQ3_1S and TQ4_1S. */
void td_tq_forward(float *x);
void td_tq_inverse(float *x);

/* Code books of the file types in ascending order, as published. */
extern const float td_tq3_values[8];
extern const float td_tq4_values[16];

#endif
