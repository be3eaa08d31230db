/* The commands of the program, in the order help lists them: X(name, summary). Each is td_cmd_NAME in cmd_NAME.c. */
#ifndef TD_CLI_COMMANDS_H
#define TD_CLI_COMMANDS_H

#define TD_COMMAND_LIST(X)                                                                                             \
    X(run, "text in, text out; a chat in the terminal when no prompt is given")                                        \
    X(serve, "HTTP: OpenAI, Anthropic and llama-server endpoints, slots, metrics, a web page")                         \
    X(bench, "prefill, decode, depth, draft and verify costs, speculative throughput")                                 \
    X(eval, "perplexity, KL divergence and same top token against a reference run")                                    \
    X(inspect, "what a GGUF holds, whether it is sound, whether an assistant fits a target")                           \
    X(convert, "a Hugging Face folder to GGUF")                                                                        \
    X(quantize, "a GGUF file to a smaller one")                                                                        \
    X(synth, "a target and assistant of real shape with random weights and a chosen acceptance")                       \
    X(tokenize, "text to token ids and back")                                                                          \
    X(trace, "a speculation trace as a table and a picture")

#define TD_COMMAND_DECLARE(name, summary) int td_cmd_##name(int argc, char **argv);
TD_COMMAND_LIST(TD_COMMAND_DECLARE)
#undef TD_COMMAND_DECLARE

#endif
