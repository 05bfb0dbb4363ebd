"""Varied strings for comparing tokenizers: the same for the same seed and count.

    python tools/oracle/tokenizer_strings.py COUNT [SEED] > strings.jsonl      # a JSON string a line

Words and characters of every script that Python's `unicodedata` knows, emoji with modifiers and joiners, combining marks,
control and format characters, runs of spaces, tabs and new lines, numbers, code, and mixtures of all.
"""
import json
import random
import sys
import unicodedata

WORDS = """the of and to in I'll don't WE'RE can't he'd she's naïve façade Straße œuvre Ångström Ελλάδα Москва Київ
 שלום مرحبا नमस्ते বাংলা தமிழ் ไทย 中文 日本語 ひらがな カタカナ 한국어 ქართული Հայերեն አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ᠮᠣᠩᠭᠣᠯ
 internationalization antidisestablishmentarianism HTTP/2 x86_64 foo_bar camelCase PascalCase kebab-case 3.14159 1e-9
 0xDEADBEEF 1,234,567 ½ ² Ⅷ ٣ ३ 〇 ﬁ ﷺ ＡＢＣ １２３ ㍿ Å Å ñ ñ""".split()
CODE = [
    "fn main() {\n    println!(\"{}\", x);\n}\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}", "def f(x):\n    return x**2\n",
    "<div class=\"a\">&nbsp;</div>", "SELECT * FROM t WHERE a <> 'b';", "{\"k\": [1, 2.5, null, true]}", "https://example.org/a?b=c#d",
    "if x == 1:\n        pass\n\n\n", "#include <stdio.h>\r\n", "$\\alpha_{i}^{2}$", "```rust\nlet a = 'b';\n```", "a  ->  b\t//\tc",
]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️", "☺", "1️⃣", "🫠", "🧑🏿‍🚀", "\u200d", "\ufe0f"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u2029",
          "\u0085", "\u000b", "\u000c", "\u202f", "\ufeff", "        ", "\u2581", "\u2581\u2581", " \u2581"]
SPECIAL = ["<s>", "</s>", "<unk>", "<0x0A>", "<0xE2>", "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|endoftext|>", "[INST]"]


def blocks():
    """Assigned characters by block of 128, without surrogates and private use."""
    out = {}
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category not in ("Cn", "Cs", "Co"):
            out.setdefault(code >> 7, []).append(chr(code))
    return list(out.values())


def strings(count, seed=20):
    rng = random.Random(seed)
    all_blocks = blocks()
    marks = [chr(c) for c in range(0x300, 0x370)] + list("\u064b\u0651\u093c\u0e31\u20d7\u1ab0")
    controls = [chr(c) for c in range(1, 32)] + [chr(c) for c in range(0x7F, 0xA0)] + list("\u200e\u202e\u2066\ufffe\uffff\U000e0001")

    def piece():
        kind = rng.randrange(12)
        if kind < 3:
            return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 8)))
        if kind == 3:
            return rng.choice(CODE)
        if kind == 4:
            return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 4)))
        if kind == 5:
            return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 6)))
        if kind == 6:
            return rng.choice(" \t\nab-=.*#'\"0") * rng.randint(1, 40)
        if kind == 7:
            block = rng.choice(all_blocks)
            return "".join(rng.choice(block) for _ in range(rng.randint(1, 10)))
        if kind == 8:
            return "".join(rng.choice("aeioun ") + rng.choice(marks) for _ in range(rng.randint(1, 5)))
        if kind == 9:
            return rng.choice(controls) + rng.choice(WORDS)
        if kind == 10:
            return "".join(rng.choice("0123456789.,-+eE ") for _ in range(rng.randint(1, 14)))
        return rng.choice(SPECIAL) if rng.randrange(4) == 0 else chr(rng.choice([rng.randrange(32, 0x250), rng.randrange(0x3000, 0xA000)]))

    made = 0
    while made < count:
        text = "".join(piece() + rng.choice(["", "", " "]) for _ in range(rng.randint(1, 6)))
        yield text
        made += 1


if __name__ == "__main__":
    number = int(sys.argv[1])
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    for string in strings(number, start):
        print(json.dumps(string))
