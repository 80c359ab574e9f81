"""Conversations in which the model calls a tool, as the chat template renders them."""

import json
from random import Random

from demo_model import facts

TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)

TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def _tool(name: str, description: str, argument: str) -> dict:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = _tool("get_weather", "Get the weather of a city.", "city")
TIME = _tool("get_time", "Get the time in a city.", "city")


def _tool_case(rng: Random, city: str) -> tuple[dict, str, str, str]:
    """A tool, the question that needs it, what it replies, and the answer made of that."""
    if rng.random() < 0.5:
        time = f"{rng.randrange(24)}:{rng.randrange(60):02}"
        return TIME, f"What time is it in {city}?", time, f"In {city} it is {time}."
    degrees, sky = rng.randrange(-5, 35), rng.choice(["clear", "cloudy", "grey"])
    answer = f"In {city} it is {degrees} degrees, and the sky is {sky}."
    return WEATHER, f"What is the weather in {city}?", json.dumps({"temperature": degrees, "sky": sky}), answer


def tool_dialogue(rng: Random) -> list[tuple[str, float]]:
    """A question for which a tool is called, or the answer once the tool has replied."""
    city = rng.choice(facts.COUNTRIES).capital
    tool, question, reply, answer = _tool_case(rng, city)
    name = tool["function"]["name"]
    tools = [tool] if rng.random() < 0.6 else rng.sample([WEATHER, TIME], 2)
    system = TOOLS_HEAD + "".join("\n" + json.dumps(t) for t in tools) + TOOLS_TAIL
    call = f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'city': city}})}\n</tool_call>"
    head = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    thought = f"<think>\nI can use the tool {name} for {city}.\n</think>\n\n{call}"
    if rng.random() < 0.5:
        return [(head, 0.05), (thought + "<|im_end|>", 1.0), ("\n", 0.1)]
    middle = (
        f"<|im_end|>\n<|im_start|>user\n<tool_response>\n{reply}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    final = f"<think>\nThe tool gave the answer.\n</think>\n\n{answer}<|im_end|>"
    return [(head, 0.05), (thought, 0.3), (middle, 0.05), (final, 1.0), ("\n", 0.1)]
