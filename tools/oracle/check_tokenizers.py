"""Compares Pteron's tokenizers with the reference libraries: ids, decoded text, streaming.

    python tools/oracle/check_tokenizers.py EXAMPLE ASSETS TEXT [--count 50000] [--only NAME]

EXAMPLE is the binary of `cargo build -p pteron-llm --example tokenize`. ASSETS is a folder with the unpacked wheels
`llama-models` and `mistral-common`, `models/` of the sdist `llama-cpp-python` (vendor/llama.cpp/models), and, where there
are, `smollm2/`, `glass/` (Hugging Face folders) and `tok512.bin`. TEXT is a long text (WikiText-2's raw test split).
Known to work with sentencepiece 0.2.3, tiktoken 0.14.0, tokenizers 0.23.3, gguf and Python 3.11.
"""
import argparse
import base64
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

import sentencepiece as spm
import tiktoken
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import models, normalizers, pre_tokenizers

sys.path.insert(0, os.path.dirname(__file__))
import tokenizer_strings  # noqa: E402

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


class Tiktoken:
    def __init__(self, ranks, pattern, offset=0):
        self.encoding = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self.offset = offset

    def encode(self, text):
        return [i + self.offset for i in self.encoding.encode(text, disallowed_special=())]

    def decode(self, ids):
        return self.encoding.decode([i - self.offset for i in ids])


class SentencePiece:
    def __init__(self, path=None, data=None):
        self.processor = spm.SentencePieceProcessor(model_file=path) if path else spm.SentencePieceProcessor(model_proto=data)

    def encode(self, text):
        return self.processor.encode(text)

    def decode(self, ids):
        return self.processor.decode(ids)


class HuggingFace:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class ExecuTorchTiktoken:
    """ExecuTorch's C++ tokenizer, in the package pytorch_tokenizers."""

    def __init__(self, path):
        from pytorch_tokenizers import pytorch_tokenizers_cpp

        self.tokenizer = pytorch_tokenizers_cpp.Tiktoken()
        self.tokenizer.load(path)

    def encode(self, text):
        return list(self.tokenizer.encode(text, 0, 0))

    decode = None


class Llama2c:
    """The rules of llama2.c's `encode`, written down once more: the best pair of the whole text, the first of equals."""

    def __init__(self, path):
        data, self.pieces, self.scores = open(path, "rb").read(), [], []
        import struct

        header = struct.unpack_from("<4i", data)
        at = 16 if 0 < header[0] < 1 << 20 and header[1:3] == (1, 2) else 4
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            self.pieces.append(data[at + 8 : at + 8 + length])
            self.scores.append(score)
            at += 8 + length
        self.ids = {}
        for i, piece in enumerate(self.pieces):
            self.ids.setdefault(piece, i)

    def encode(self, text):
        ids = [self.ids[b" "]]
        for c in text:
            known = self.ids.get(c.encode())
            ids += [known] if known is not None else [b + 3 for b in c.encode()]
        while True:
            best = None
            for i in range(len(ids) - 1):
                merged = self.ids.get(self.pieces[ids[i]] + self.pieces[ids[i + 1]])
                if merged is not None and (best is None or self.scores[merged] > self.scores[best[1]]):
                    best = (i, merged)
            if best is None:
                return ids
            ids[best[0] : best[0] + 2] = [best[1]]

    decode = None
    short = True


def ranks(path):
    lines = (line.split() for line in open(path, "rb").read().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def tekken(path):
    data = json.load(open(path))
    special = data["config"]["default_num_special_tokens"]
    inner = data["config"]["default_vocab_size"] - special
    return Tiktoken({base64.b64decode(t["token_bytes"]): t["rank"] for t in data["vocab"][:inner]}, data["config"]["pattern"], special)


def gguf_parts(path):
    from gguf import GGUFReader

    out = {}
    for key, field in GGUFReader(path).fields.items():
        if key.startswith("tokenizer.ggml."):
            out[key.removeprefix("tokenizer.ggml.")] = field.contents()
    return out


def gguf_sentencepiece(parts):
    """A SentencePiece model of the parts, as convert_hf_to_gguf.py took them from one."""
    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece.Type
    for text, score, kind in zip(parts["tokens"], parts["scores"], parts["token_type"]):
        model.pieces.add(piece=text, score=score, type=kinds.Name(kind))
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.remove_extra_whitespaces = False
    return SentencePiece(data=model.SerializeToString())


def gguf_byte_level(parts, steps, normalizer=None, whole=False):
    vocab = {t: i for i, t in enumerate(parts["tokens"])}
    merges = [tuple(m.split(" ")) for m in parts["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return HuggingFace(tokenizer)


def split(pattern):
    return [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def trained(folder, text):
    """Small SentencePiece models with what the shipped ones lack."""
    variants = {
        "bpe-nfkc": dict(model_type="bpe", user_defined_symbols=["<sep>", "New York", "  "], byte_fallback=True),
        "bpe-plain": dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False),
        "unigram-nfkc": dict(model_type="unigram", user_defined_symbols=["<sep>", "==", "é"], control_symbols=["<ctl>"]),
        "unigram-cf": dict(model_type="unigram", normalization_rule_name="nmt_nfkc_cf", byte_fallback=True, treat_whitespace_as_suffix=True),
        "unigram-raw": dict(model_type="unigram", normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True),
    }
    for name, options in variants.items():
        prefix = os.path.join(folder, name)
        spm.SentencePieceTrainer.train(input=text, model_prefix=prefix, vocab_size=1500, input_sentence_size=20000, minloglevel=2, **options)
        yield f"trained {name}", prefix + ".model", (lambda p=prefix + ".model": SentencePiece(p)), []


def unused(folder, text):
    """BPE with every fifth piece marked as unused: those are split again."""
    path = os.path.join(folder, "bpe-nfkc.model")
    model = proto.ModelProto()
    model.ParseFromString(open(path, "rb").read())
    for i, piece in enumerate(model.pieces):
        if piece.type == 1 and len(piece.piece) > 1 and i % 5 == 0:
            piece.type = 5
    out = os.path.join(folder, "bpe-unused.model")
    open(out, "wb").write(model.SerializeToString())
    yield "trained bpe-unused", out, (lambda: SentencePiece(out)), []


def targets(assets, folder, text):
    def first(pattern):
        found = sorted(glob.glob(os.path.join(assets, pattern), recursive=True))
        if not found:
            print(f"SKIPPED: nothing matches {pattern}")
        return found[0] if found else None

    if path := first("**/llama3/tokenizer.model"):
        yield "Llama 3 tiktoken", path, (lambda p=path: Tiktoken(ranks(p), LLAMA3)), []
        yield "Llama 3 tiktoken in C++", path, (lambda p=path: ExecuTorchTiktoken(p)), ["cpp", "parse"]
    for name in ("tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"):
        if path := first(f"**/{name}"):
            yield f"Mistral SentencePiece {name[-2:]}", path, (lambda p=path: SentencePiece(p)), []
    if path := first("**/tekken_240911.json"):
        yield "Mistral Tekken", path, (lambda p=path: tekken(p)), []

    def gguf(name, make):
        path = first(f"**/{name}")
        if path:
            parts = gguf_parts(path)
            out = os.path.join(folder, os.path.basename(path) + ".json")
            json.dump({"gguf": parts}, open(out, "w"))
            yield f"GGUF {name.removeprefix('ggml-vocab-')}", out, (lambda: make(parts)), []

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True), gpt2]
    yield from gguf("ggml-vocab-llama-spm.gguf", gguf_sentencepiece)
    yield from gguf("ggml-vocab-gpt-2.gguf", lambda p: gguf_byte_level(p, [gpt2]))
    yield from gguf("ggml-vocab-llama-bpe.gguf", lambda p: gguf_byte_level(p, split(LLAMA3), whole=True))
    yield from gguf("ggml-vocab-qwen2.gguf", lambda p: gguf_byte_level(p, split(QWEN2), normalizers.NFC()))
    if path := first("smollm2/tokenizer.json"):
        yield from gguf("smollm2*.gguf", lambda _: HuggingFace(tokenizers.Tokenizer.from_file(path)))
        yield "SmolLM2 tokenizer.json", path, (lambda p=path: HuggingFace(tokenizers.Tokenizer.from_file(p))), []
    if glass := first("glass/tokenizer.json"):
        yield "glass tokenizer.json", glass, (lambda p=glass: HuggingFace(tokenizers.Tokenizer.from_file(p))), []
    if path := first("tok512.bin"):
        yield "llama2.c tok512", path, (lambda p=path: Llama2c(p)), []
    yield from trained(folder, text)
    yield from unused(folder, text)


def ours(example, file, texts, flags):
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    done = subprocess.run([example, file, *flags], input=lines, capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"{file}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def check(example, name, file, make, flags, strings, long):
    reference = make()
    short = getattr(reference, "short", False)
    texts = [t for t in strings if len(t) < 80] if short else strings
    texts = texts if short else texts + [long]
    start = time.time()
    found = ours(example, file, texts, flags)
    spent = time.time() - start
    wrong, text_wrong, stream_wrong, round_trips = [], 0, 0, 0
    for text, (ids, decoded, streamed) in zip(texts, found, strict=True):
        expected = reference.encode(text)
        if ids != expected:
            wrong.append((text, ids, expected))
        if reference.decode:
            text_wrong += decoded != reference.decode(expected)
        round_trips += decoded == text
        stream_wrong += not streamed
    tokens = sum(len(f[0]) for f in found)
    last = "" if short else f", {len(found[-1][0]):,} in the long text"
    print(
        f"{name}: {len(texts):,} texts, {tokens:,} tokens{last}; ids differ {len(wrong)}, texts differ {text_wrong}, "
        f"streamed texts differ {stream_wrong}, texts that come back {round_trips:,}; {spent:.1f} s",
        flush=True,
    )
    for text, ids, expected in wrong[:3]:
        at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
        print(f"  {text[:120]!r}: at token {at}: {ids[at : at + 6]}, expected {expected[at : at + 6]}")
    return not (wrong or text_wrong or stream_wrong)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("example")
    parser.add_argument("assets")
    parser.add_argument("text")
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    strings = list(tokenizer_strings.strings(options.count))
    long = open(options.text, encoding="utf-8").read()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name, file, make, flags in targets(options.assets, folder, options.text):
            if options.only.lower() in name.lower():
                good &= check(options.example, name, file, make, flags, strings, long)
    print("all equal" if good else "THERE ARE DIFFERENCES")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
