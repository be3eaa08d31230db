/* Writes a GGUF file of floats as the Hugging Face folder that it would have come from. So a synthetic pair, whose
 * drafts are right on a known share of tokens, becomes a checkpoint whose conversion can be compared and run. */
#ifndef TEST_HF_CHECKPOINT_H
#define TEST_HF_CHECKPOINT_H

/* `dir` is made: config.json, tokenizer.json and two shards with their index. Fails the test when it cannot. */
void hf_checkpoint_write(const char *gguf, const char *dir);

/* The file that was converted from such a folder holds what the original held: the same keys of the model and the
 * tokenizer, the same tensors byte for byte. Fails the test where it does not. */
void hf_checkpoint_compare(const char *original, const char *converted);

#endif
