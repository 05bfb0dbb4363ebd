#!/usr/bin/env python3
"""Times a GGUF file in OpenVINO GenAI, as `pteron bench` times a program in Pteron.

usage: PYTHON tools/bench_openvino.py MODEL.gguf [--prompt-tokens 128,512] [--generate 32] [--context 0,512] [--threads 2]
           [--repeat 3] [--vocab N]

PYTHON has openvino-genai. Prints a row for each figure: the median of --repeat times after a warm-up, in tokens a second. What
a prompt takes is the time to its first token; a decoded token is the mean of those after it, sampling (greedy) included.
"""
import argparse
import importlib.metadata
import os
import statistics


def numbers(text):
    return [int(n) for n in text.split(",")]


def main(args):
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    config = {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY", "ATTENTION_BACKEND": "SDPA"}
    pipeline = genai.LLMPipeline(args.model, "CPU", **config)

    def generate(prompt, tokens):
        c = genai.GenerationConfig()
        c.max_new_tokens = c.min_new_tokens = tokens
        c.ignore_eos, c.do_sample, c.apply_chat_template = True, False, False
        ids = np.array([[(i * 7919 + 1) % args.vocab for i in range(prompt)]], np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        metrics = pipeline.generate(inputs, c).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3

    def rate(name, count, measure):
        measure()
        seconds = statistics.median(measure() for _ in range(args.repeat))
        print(f"| {args.threads} | {name} | {count / seconds:.1f} tokens/s |", flush=True)

    print(f"openvino-genai {importlib.metadata.version('openvino-genai')}", flush=True)
    for n in args.prompt_tokens:
        rate(f"pp{n}", n, lambda: generate(n, 1)[0])
    for context in args.context:
        rate(f"tg{args.generate} at {context}", 1, lambda: generate(max(context, 1), args.generate + 1)[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=numbers, default=[128, 512])
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--context", type=numbers, default=[0, 512])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=256)
    main(parser.parse_args())
