"""Small chat templates with the behaviour of real families, for tests."""

from __future__ import annotations

import json
from pathlib import Path

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# The demo's, which renders what Qwen3's own renders: reasoning only after the last question, an empty think block when
# switched off, Hermes-style tools.
_DEMO = Path(__file__).resolve().parent.parent / "qwenctl" / "demo" / "tokenizer_config.json"
QWEN3: str = json.loads(_DEMO.read_text(encoding="utf-8"))["chat_template"]

# Thinking-2507: every prompt ends inside a think block.
_BEFORE_SWITCH, _SWITCH, _AFTER_SWITCH = QWEN3.rpartition("{%- if enable_thinking")
THINKING_2507 = _BEFORE_SWITCH + "{{- '<think>\\n' -}}" + _AFTER_SWITCH.partition("{%- endif -%}")[2]

# A template that repeats whatever reasoning it is given, also of earlier turns.
KEEPS_REASONING = """\
{%- for message in messages %}
    {{- '[' + message.role + '] ' }}
    {%- if message.reasoning_content %}{{- '(' + message.reasoning_content + ') ' }}{%- endif %}
    {{- message.content + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant] ' }}{%- endif %}
"""

# Mistral's manner: the roles must alternate.
STRICT_ROLES = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/…') }}
    {%- endif %}
    {{- '[' + message.role + '] ' + message.content + eos_token }}
{%- endfor %}
"""

XML_CALLS = """\
{%- for tool in tools or [] %}<function><name>{{ tool.function.name }}</name></function>
{% endfor %}
{%- for message in messages %}<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
<function={{ call.function.name }}>
{% for name, value in call.function.arguments.items() %}<parameter={{ name }}>
{{ value if value is string else value | tojson }}
</parameter>
{% endfor %}</function>
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Calls as Qwen3-Coder's template writes them."""
