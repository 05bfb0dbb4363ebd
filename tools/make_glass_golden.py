#!/usr/bin/env python3
"""Records what glassllm 0.1.0 itself computes, as crates/pteron/assets/glass-en/golden.json.

usage: make_glass_golden.py WHEEL [--check-transformers]

Greedy continuations (60 tokens each) by glassllm's own numpy code in f32 from the f16 weights, its token ids and the
first logits. With --check-transformers (needs torch and transformers), the converted folder must give the same ids.
"""
import json
import os
import sys

import numpy as np

from hf_folder import check_sha256
from make_glass import WHEEL_SHA256

PROMPTS = [
    "Alice was beginning to",
    "The Queen turned crimson with fury",
    "\u201cCurious,\u201d said the Cat",
    "Once upon a time there were three little sisters;\n",
]
NEW_TOKENS = 60


def greedy(model, tokenizer, prompt):
    ids = tokenizer.encode(prompt)
    logits = model.forward(ids).data[0, -1]
    sequence, margin = list(ids), float("inf")
    for _ in range(NEW_TOKENS):
        step = model.forward(sequence).data[0, -1]
        best, second = np.sort(step)[:-3:-1]
        margin = min(margin, float(best - second))
        sequence.append(int(step.argmax()))
    new = sequence[len(ids):]
    cached = [step.token for step in model.generate(ids, NEW_TOKENS, greedy=True)]
    if cached != new:
        raise SystemExit(f"{prompt!r}: glassllm's cached generation differs from its whole forward passes")
    return {
        "prompt": prompt,
        "ids": ids,
        "greedy_ids": new,
        "text": tokenizer.decode(new),
        "min_margin": round(margin, 6),
        "last_logits": [float(x) for x in logits[:8]],
        "max_abs_logit": float(np.abs(logits).max()),
    }


def check_transformers(folder, cases):
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for case in cases:
        ids = tokenizer(case["prompt"], add_special_tokens=False)["input_ids"]
        if ids != case["ids"]:
            raise SystemExit(f"{case['prompt']!r}: tokenizer.json gives {ids}, glassllm {case['ids']}")
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
            out = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        if out[0, len(ids):].tolist() != case["greedy_ids"]:
            raise SystemExit(f"{case['prompt']!r}: transformers continues differently")
        if tokenizer.decode(case["greedy_ids"], clean_up_tokenization_spaces=False) != case["text"]:
            raise SystemExit(f"{case['prompt']!r}: tokenizer.json decodes differently")
        error = np.abs(logits[:8] - np.array(case["last_logits"])).max() / case["max_abs_logit"]
        if not error <= 1e-5:
            raise SystemExit(f"{case['prompt']!r}: logits differ by {error:.2e} of the largest")
        print(f"transformers agrees on {case['prompt']!r}: ids, text, logits within {error:.1e} of the largest")


def main(wheel, with_transformers):
    check_sha256(wheel, WHEEL_SHA256)
    sys.path.insert(0, wheel)
    from glassllm import load_pretrained

    model, tokenizer = load_pretrained("en")
    cases = [greedy(model, tokenizer, prompt) for prompt in PROMPTS]
    here = os.path.dirname(os.path.abspath(__file__))
    folder = os.path.join(here, "../crates/pteron/assets/glass-en")
    if with_transformers:
        check_transformers(folder, cases)
    golden = {"made_by": "tools/make_glass_golden.py", "model": "glassllm 0.1.0, English, f16 weights computed in f32", "cases": cases}
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8", newline="\n") as file:
        json.dump(golden, file, ensure_ascii=False, indent=1)
        file.write("\n")
    for case in cases:
        print(repr(case["prompt"]), "->", repr(case["text"]), case["min_margin"])


if __name__ == "__main__":
    flags = [a for a in sys.argv[1:] if a.startswith("--")]
    files = [a for a in sys.argv[1:] if not a.startswith("--")]
    if len(files) != 1 or any(flag != "--check-transformers" for flag in flags):
        raise SystemExit(__doc__)
    main(files[0], bool(flags))
