#!/usr/bin/env python3
"""Times a text program in ExecuTorch's own runtime, as `pteron bench` times it in Pteron.

usage: $ORACLE_ENV/bin/python tools/oracle/bench_pte.py MODEL.pte [--prompt-tokens 128,512] [--generate 32]
           [--context 0,512] [--threads 1,2] [--repeat 3] [--vocab N]

MODEL.pte has a KV cache: forward(tokens i64[1, n], input_pos i64[1]). Prints a row for each figure: the median of
--repeat times after a warm-up, in tokens a second. Each number of threads is set in a process of its own.
"""
import argparse
import importlib.metadata
import statistics
import subprocess
import sys
import time


def numbers(text):
    return [int(n) for n in text.split(",")]


def measure(args, threads):
    import torch
    from executorch.runtime import Runtime, Verification

    # These register the kernels of llama::* and quantized_decomposed::*.
    import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
    found = portable_lib._threadpool_get_thread_count()
    if found != threads:
        sys.exit(f"the runtime has {found} threads, expected {threads}")
    start = time.perf_counter()
    program = Runtime.get().load_program(args.model, verification=Verification.Minimal)
    forward = program.load_method("forward")
    print(f"| {threads} | load | {1e3 * (time.perf_counter() - start):.1f} ms |")

    def call(at, count):
        tokens = torch.tensor([[(i * 7919 + 1) % args.vocab for i in range(at, at + count)]], dtype=torch.int64)
        forward.execute([tokens, torch.tensor([at], dtype=torch.int64)])

    def timed(work):
        seconds = []
        for _ in range(args.repeat):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def one_by_one(context):
        for at in range(context, context + args.generate):
            call(at, 1)

    for n in args.prompt_tokens:
        call(0, n)
        print(f"| {threads} | pp{n} | {n / timed(lambda: call(0, n)):.1f} tokens/s |", flush=True)
    for context in args.context:
        if context:
            call(0, context)
        call(context, 1)
        rate = args.generate / timed(lambda: one_by_one(context))
        print(f"| {threads} | tg{args.generate} at {context} | {rate:.1f} tokens/s |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt-tokens", type=numbers, default=[128, 512])
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--context", type=numbers, default=[0, 512])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=256)
    args = parser.parse_args()
    if len(args.threads) == 1:
        measure(args, args.threads[0])
        return
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("executorch", "torch"))
    print(f"{versions}\n\n| threads | test | result |\n|---|---|---|", flush=True)
    for threads in args.threads:
        # The last --threads wins.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--threads", str(threads)], check=True)


if __name__ == "__main__":
    main()
