"""LiteLLM against an OpenAI-compatible server: what it was answered, as JSON. Runs in the environment `clients`.

scripts/interop/use_litellm.py ADDRESS MODEL KEY        ADDRESS ends with /v1
"""

import json
import sys

import litellm

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}


def main(address: str, model: str, key: str) -> None:
    """Ask, stream, call a tool, want a schema, make a mistake, leave a stream; print what came."""
    litellm.telemetry = False
    where = {"model": f"openai/{model}", "api_base": address, "api_key": key, "num_retries": 0, "temperature": 0}
    quick = {**where, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
    whole = litellm.completion(messages=QUESTION, **quick)
    stream = litellm.completion(messages=QUESTION, stream=True, stream_options={"include_usage": True}, **quick)
    chunks = list(stream)
    thought = litellm.completion(
        messages=QUESTION, extra_body={"chat_template_kwargs": {"enable_thinking": True}}, **where
    )
    called = litellm.completion(messages=QUESTION, tools=[TOOL], tool_choice="required", **quick)
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    formed = litellm.completion(messages=QUESTION, response_format=form, **quick)
    try:
        litellm.completion(messages=[{"role": "user", "content": "word " * 5000}], **quick)
        error = None
    except Exception as caught:
        error = type(caught).__name__
    left = litellm.completion(messages=QUESTION, stream=True, **quick)
    next(iter(left))
    del left
    after = litellm.completion(messages=QUESTION, **quick)
    call = called.choices[0].message.tool_calls[0].function
    found = {
        "answer": whole.choices[0].message.content,
        "usage": whole.usage.total_tokens,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "streamed_usage": next((chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)), None),
        "reasoning": getattr(thought.choices[0].message, "reasoning_content", None),
        "tool": [call.name, json.loads(call.arguments)],
        "schema": json.loads(formed.choices[0].message.content),
        "error": error,
        "after": after.choices[0].message.content,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
