"""Writes tests/goldens/tokenizers/: small tokenizers of each kind, and what the reference libraries make of some texts.

    python make_tokenizers.py

Made with Python 3.11, sentencepiece 0.2.3, tiktoken 0.14.0, tokenizers 0.23.3. The models are trained here, on this
repository's own documents and on the strings of tools/oracle/tokenizer_strings.py.
"""
import base64
import json
import os
import struct
import sys
import tempfile

import sentencepiece as spm
import tiktoken
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../../../..")
OUT = os.path.join(HERE, "tokenizers")
sys.path.insert(0, os.path.join(ROOT, "tools/oracle"))
import check_tokenizers as check  # noqa: E402
import tokenizer_strings  # noqa: E402

KINDS = proto.ModelProto.SentencePiece.Type


def corpus():
    lines = []
    for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"):
        lines += open(os.path.join(ROOT, name), encoding="utf-8").read().splitlines()
    strings = list(tokenizer_strings.strings(300, seed=7))
    return [line for line in lines + strings if line.strip() and "\0" not in line]


def texts():
    own = ["", " ", "  ", "a", " a", "a ", "hello", "   hello", "a  b", "x\n\n  y", "it's I'LL", "éé==<sep>  New York", "<ctl>x", "ﬁ ½ ＡＢＣ Å",
           "<0x41>", "▁▁a", "a" * 50, " " * 50, "\u0000a", "😀👩‍👩‍👧‍👦", "é ñ", "1234567", "\ud7ff\uffff"]
    return own + [t for t in tokenizer_strings.strings(260, seed=99) if len(t) < 70][:120]


def sentencepiece(name, training, **options):
    with tempfile.TemporaryDirectory() as folder:
        text, prefix = os.path.join(folder, "t"), os.path.join(folder, "m")
        open(text, "w", encoding="utf-8").write("\n".join(training))
        spm.SentencePieceTrainer.train(input=text, model_prefix=prefix, character_coverage=0.98, minloglevel=2, **options)
        model = proto.ModelProto()
        model.ParseFromString(open(prefix + ".model", "rb").read())
    # Paths of the training, and NFKC's table for all characters, would be most of the file.
    model.trainer_spec.ClearField("input")
    model.trainer_spec.ClearField("model_prefix")
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    return model


def small_rules(folder):
    """A normalization of a few rules, by which a map is compiled that is small and has prefixes of one another."""
    rules = [("FB01", "66 69"), ("00BD", "31 2F 32"), ("FF21", "41"), ("FF21 FF22", "58 59 5A"), ("41 30A", "C5"), ("0009", "20"), ("000A", "20"), ("00AD", "")]
    path = os.path.join(folder, "rules.tsv")
    open(path, "w").write("".join(f"{a}\t{b}\n" for a, b in rules))
    return path


def save(name, data):
    mode = "wb" if isinstance(data, bytes) else "w"
    with open(os.path.join(OUT, name), mode, **({} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"})) as file:
        file.write(data)


def main():
    os.makedirs(OUT, exist_ok=True)
    training, strings, cases = corpus(), texts(), {}

    def case(name, reference, short=False, decode=True):
        rows = []
        for text in strings:
            ids = reference.encode(text)
            row = {"ids": ids}
            if decode and (decoded := reference.decode(ids)) != text:
                row["text"] = decoded
            rows.append(row)
        cases[name] = rows

    with tempfile.TemporaryDirectory() as folder:
        rules = small_rules(folder)
        plain = dict(normalization_rule_name="identity")
        ruled = dict(normalization_rule_tsv=rules)
        built = {
            "bpe": sentencepiece("bpe", training, vocab_size=620, model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False, **plain),
            "bpe_user": sentencepiece("u", training, vocab_size=420, model_type="bpe", user_defined_symbols=["<sep>", "New York", "  "], control_symbols=["<ctl>"], **ruled),
            "unigram": sentencepiece("g", training, vocab_size=420, model_type="unigram", user_defined_symbols=["<sep>", "==", "é"], control_symbols=["<ctl>"], **ruled),
            "unigram_suffix": sentencepiece("s", training, vocab_size=660, model_type="unigram", byte_fallback=True, treat_whitespace_as_suffix=True, **plain),
        }
    unused = proto.ModelProto()
    unused.CopyFrom(built["bpe"])
    for i, piece in enumerate(unused.pieces):
        if piece.type == KINDS.NORMAL and len(piece.piece) > 1 and i % 5 == 0:
            piece.type = KINDS.UNUSED
    built["bpe_unused"] = unused
    for name, model in built.items():
        data = model.SerializeToString()
        save(f"{name}.model", data)
        case(f"{name}.model", check.SentencePiece(data=data))

    # llama2.c's file of the first model, both headers.
    body, longest = b"", 0
    for piece in built["bpe"].pieces:
        text = piece.piece.replace("\u2581", " ").encode()
        longest = max(longest, len(text))
        body += struct.pack("<fi", piece.score, len(text)) + text
    count = len(built["bpe"].pieces)
    for name, header in (("llama2c.bin", struct.pack("<4i", count, 1, 2, longest)), ("llama2c_short.bin", struct.pack("<i", longest))):
        save(name, header + body)
        case(name, check.Llama2c(os.path.join(OUT, name)), decode=False)

    # The same as a GGUF vocabulary.
    parts = {"model": "llama", "tokens": [p.piece for p in built["bpe"].pieces], "scores": [p.score for p in built["bpe"].pieces],
             "token_type": [p.type for p in built["bpe"].pieces], "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    save("gguf_llama.json", json.dumps(parts))
    case("gguf_llama.json", check.gguf_sentencepiece(parts))

    # Byte-level BPE: merges learnt once, in each kind's clothes.
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=256 + 260, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    learner.train_from_iterator(training, trainer)
    alphabet = check_alphabet()
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [c for _, c in sorted((b, c) for c, b in alphabet.items())] + [a + b for a, b in merges]
    tokens = list(dict.fromkeys(tokens))
    ranks = {bytes(alphabet[c] for c in token): i for i, token in enumerate(tokens)}
    save("ranks.tiktoken", "".join(f"{base64.b64encode(t).decode()} {i}\n" for t, i in ranks.items()))
    case("ranks.tiktoken", check.Tiktoken(ranks, check.LLAMA3))
    pattern = json.load(open(os.path.join(HERE, "tekken_pattern.json")))
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, i in ranks.items()]
    config = {"pattern": pattern, "num_vocab_tokens": len(vocab), "default_vocab_size": len(vocab) - 6 + 30, "default_num_special_tokens": 30, "version": "v3"}
    save("tekken.json", json.dumps({"config": config, "vocab": vocab}))
    case("tekken.json", check.tekken(os.path.join(OUT, "tekken.json")))

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True), gpt2]
    for pre, steps, normalizer, whole in (
        ("gpt-2", [gpt2], None, False),
        ("smollm", digits, None, False),
        ("llama-bpe", check.split(check.LLAMA3), None, True),
        ("qwen2", check.split(check.QWEN2), normalizers.NFC(), False),
    ):
        parts = {"model": "gpt2", "pre": pre, "tokens": tokens + ["<|eot|>", "<tool>"], "merges": [" ".join(m) for m in merges],
                 "token_type": [1] * len(tokens) + [3, 4], "bos_token_id": len(tokens), "eos_token_id": len(tokens)}
        save(f"gguf_{pre}.json", json.dumps(parts))
        case(f"gguf_{pre}.json", check.gguf_byte_level(parts, steps, normalizer, whole))

    save("cases.json", json.dumps({"texts": strings, "cases": cases}, ensure_ascii=True, separators=(",", ":")))


def check_alphabet():
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}


if __name__ == "__main__":
    main()
