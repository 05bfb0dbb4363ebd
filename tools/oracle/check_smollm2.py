"""Greedy tokens of a program in ExecuTorch's runtime against transformers'; called by check_smollm2.sh.
usage: check_smollm2.py MODEL.pte GOLDEN.json     exit code: 1 if a choice differs beyond a tie"""
import json
import sys
import time

import torch
from executorch.runtime import Runtime, Verification
import executorch.extension.llm.custom_ops.custom_ops  # noqa: F401  registers llama::*

# Logits closer than this may change places when sums are reassociated; the run then goes on with the recorded token.
TIE = 1e-3


def main(path, golden):
    with open(path, "rb") as file:
        data = file.read()
    program = Runtime.get().load_program(data, verification=Verification.InternalConsistency)
    method = program.load_method("forward")
    with open(golden, encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    differ = ties = steps = 0
    worst = 0.0
    start = time.time()
    for case in cases:
        tokens, position = case["ids"], 0
        for i, expected in enumerate(case["greedy_ids"]):
            logits = method.execute([torch.tensor([tokens]), torch.tensor([position])])[0].reshape(-1).float()
            scale = float(logits.abs().max())
            for token, value in zip(case["top_ids"][i], case["top_logits"][i]):
                worst = max(worst, abs(float(logits[token]) - value) / scale)
            if int(logits.argmax()) != expected:
                if case["margins"][i] < TIE:
                    ties += 1
                else:
                    differ += 1
                    print(f"{case['prompt'][:40]!r}, token {i}: {int(logits.argmax())}, transformers chooses {expected}")
            position += len(tokens)
            tokens = [expected]
            steps += 1
    print(
        f"{len(cases)} prompts, {steps} tokens: {differ} differ, {ties} ties; largest difference of a recorded logit "
        f"{worst:.1e} of the step's largest; {steps / (time.time() - start):.1f} tokens/s"
    )
    return 1 if differ else 0


sys.exit(main(*sys.argv[1:]))
