#!/usr/bin/env python3
"""Records transformers' greedy continuations of SmolLM2-135M-Instruct in f32 as fixtures/smollm2/golden.json.

usage: $ORACLE_ENV/bin/python tools/oracle/smollm2_golden.py CHECKPOINT [OUT]

CHECKPOINT is the folder that tools/make_smollm2.py makes (`cargo xtask fetch --models`). Each of the ten prompts gets
64 tokens; an end-of-sequence token does not stop it. For each step: the five best ids and their logits, best first, and
the margin between the two best. Greedy ids are checked against `generate` of the same library.
"""
import hashlib
import json
import os
import platform
import sys

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

STEPS, TOP = 64, 5
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWrite a haiku about the ocean.<|im_end|>\n<|im_start|>assistant\n",
    "The three laws of thermodynamics state that",
    "In 1969, Apollo 11 landed on the Moon. The crew",
    "Q: If a train travels 60 miles in 1.5 hours, what is its average speed?\nA:",
    "Photosynthesis is the process by which plants",
    "SELECT name, age FROM users WHERE",
]


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@torch.no_grad()
def record(model, tokenizer, prompt):
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    greedy, top_ids, top_logits, margins = [], [], [], []
    pending, cache = torch.tensor([ids]), None
    for _ in range(STEPS):
        out = model(pending, past_key_values=cache, use_cache=True)
        cache, best = out.past_key_values, out.logits[0, -1].topk(TOP)
        greedy.append(int(best.indices[0]))
        top_ids.append(best.indices.tolist())
        top_logits.append([round(float(x), 4) for x in best.values])
        margins.append(round(float(best.values[0] - best.values[1]), 6))
        pending = best.indices[:1].view(1, 1)
    generated = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=STEPS, do_sample=False, eos_token_id=None,
    )[0, len(ids):].tolist()
    if generated != greedy:
        raise SystemExit(f"{prompt!r}: generate and the recorded steps differ")
    return {"prompt": prompt, "ids": ids, "greedy_ids": greedy, "text": tokenizer.decode(greedy),
            "margins": margins, "top_ids": top_ids, "top_logits": top_logits}


def main(checkpoint, out):
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    cases = [record(model, tokenizer, prompt) for prompt in PROMPTS]
    golden = {
        "made_by": "tools/oracle/smollm2_golden.py",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
        "dtype": "float32",
        "model_safetensors_sha256": file_sha256(os.path.join(checkpoint, "model.safetensors")),
        "tokenizer_json_sha256": file_sha256(os.path.join(checkpoint, "tokenizer.json")),
        "cases": cases,
    }
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w", encoding="utf-8", newline="\n") as file:
        head = {key: value for key, value in golden.items() if key != "cases"}
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"cases": [\n')
        file.write(",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases))
        file.write("\n]}\n")
    for case in cases:
        print(f"{min(case['margins']):.6f}", repr(case["prompt"]), "->", repr(case["text"][:70]))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else os.path.join(here, "../../fixtures/smollm2/golden.json"))
