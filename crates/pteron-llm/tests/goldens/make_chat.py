"""Renders the templates of this folder with transformers and writes chat.json, which tests/chat.rs compares with.

    python make_chat.py        (transformers 5.23.0, jinja2 3.1.6)
"""
import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as utils

HERE = pathlib.Path(__file__).parent
NOW = 1_722_470_400 + 45_296  # 2024-08-01T12:34:56Z


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)


utils.datetime = Fixed

USER = {"role": "user", "content": " Who wrote «Faust»? 😀 e\u0301\n"}
ASSISTANT = {"role": "assistant", "content": " Goethe did. "}
SYSTEM = {"role": "system", "content": "Be <brief> & \"kind\".\n"}
AGAIN = {"role": "user", "content": "When?"}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Looks <things> up, é",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "default": 2.5}},
                       "required": ["query"], "additionalProperties": False, "empty": {}, "none": None}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "function": {"name": "look_up", "arguments": {"query": "Faust", "z": 1, "a": [True, None]}}}]}
ANSWER = {"role": "tool", "content": "1808 ü"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nGoethe."}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
EXTRA = {"extra": {"z": 1, "b": "ü\u007f\u2028\n<'", "a": {"y": [], "x": {}}, "list": [1.5, -0.0, 1e16, 123456789012, "t"], "f": False}}

CASES = [
    ("chatml", [USER], {}, {}, True),
    ("chatml", [SYSTEM, USER, ASSISTANT, AGAIN], {}, {}, True),
    ("chatml", [SYSTEM, USER, ASSISTANT], {}, {}, False),
    ("llama3", [USER], LLAMA, {}, True),
    ("llama3", [SYSTEM, USER, ASSISTANT, AGAIN], LLAMA, {}, True),
    ("llama3", [SYSTEM, USER, ASSISTANT], LLAMA, {"date_string": "1 May"}, False),
    ("llama3", [USER, CALL, ANSWER], LLAMA, {"tools": [TOOL]}, True),
    ("mistral", [USER], TOKENS, {}, True),
    ("mistral", [SYSTEM, USER, ASSISTANT, AGAIN], TOKENS, {}, True),
    ("mistral", [USER, ASSISTANT], TOKENS, {}, False),
    ("mistral", [USER, AGAIN], TOKENS, {}, True),
    ("mistral", [USER, SYSTEM], TOKENS, {}, True),
    ("qwen3", [SYSTEM, USER], {}, {}, True),
    ("qwen3", [USER], {}, {"enable_thinking": False}, True),
    ("qwen3", [USER, THOUGHT, AGAIN, THOUGHT], {}, {}, False),
    ("qwen3", [USER, {**ASSISTANT, "reasoning": "so it is"}], {}, {}, False),
    ("qwen3", [SYSTEM, USER, CALL, ANSWER, ANSWER], {}, {"tools": [TOOL]}, True),
    ("python_values", [USER, {"role": "skip", "content": "no"}, {"role": "user", "content": None}, {"role": "user", "content": True}, AGAIN, AGAIN, AGAIN], {}, EXTRA, False),
]


def main():
    out = []
    for name, messages, tokens, options, add in CASES:
        source = (HERE / "templates" / f"{name}.jinja").read_text()
        try:
            rendered, _ = utils.render_jinja_template(
                [messages], chat_template=source, add_generation_prompt=add, **tokens, **options)
            result = {"text": rendered[0]}
        except Exception as error:
            result = {"error": str(error)}
        out.append({"template": name, "messages": messages, "tokens": tokens, "options": options,
                    "add_generation_prompt": add, **result})
    (HERE / "chat.json").write_text(json.dumps({"now": NOW, "cases": out}, indent=1, ensure_ascii=False) + "\n")


main()
